"""The augmentations that papers share: a method names one and says what differs."""

from dataclasses import replace

from .view import View

# Colours, as fields of `View`. SimCLR's on ImageNet (arXiv:2002.05709, appendix A).
SIMCLR_COLOR = {"jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grayscale": 0.2}
# MoCo v2's (arXiv:2003.04297): half as strong.
MOCO_COLOR = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale": 0.2}
# BYOL's (arXiv:2006.07733, appendix B): half of that again for the saturation.
BYOL_COLOR = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2}


def simclr_views(size: int) -> dict[str, View]:
    """SimCLR's two views on ImageNet (arXiv:2002.05709, appendix A)."""
    return {"both": View(size, count=2, scale=(0.08, 1.0), blur=0.5, **SIMCLR_COLOR)}


def moco_views(size: int) -> dict[str, View]:
    """MoCo v2's two views on ImageNet (arXiv:2003.04297), which SimSiam takes over."""
    return {"both": View(size, count=2, scale=(0.2, 1.0), blur=0.5, **MOCO_COLOR)}


def byol_views(size: int, interpolation: str = "bicubic") -> dict[str, View]:
    """BYOL's two views on ImageNet (arXiv:2006.07733, appendix B): the first always blurred, the second seldom, and solarized at times."""
    crop = {"scale": (0.08, 1.0), "interpolation": interpolation, **BYOL_COLOR}
    return {"first": View(size, blur=1.0, **crop), "second": View(size, blur=0.1, solarize=0.2, **crop)}


def dino_views(size: int, threshold: float, local_count: int, patch: int = 1) -> dict[str, View]:
    """DINO's views on ImageNet (arXiv:2104.14294), which iBOT and DINOv2 take over: two global ones of BYOL's colours, and local ones.

    threshold: the share of the image's area that divides local from global crops. patch: px, of which local views are a multiple.
    """
    first, second = byol_views(size).values()
    return {
        "global_1": replace(first, scale=(threshold, 1.0)),
        "global_2": replace(second, scale=(threshold, 1.0)),
        "local": replace(first, size=local_size(size, patch), count=local_count, scale=(0.05, threshold), blur=0.5),
    }


def multi_crop(view: View, threshold: float, local_size: int) -> dict[str, View]:
    """Multi-crop (SwAV, arXiv:2006.09882): two global views, and six smaller ones of local parts of the image, all with the same colours.

    view: of which both kinds are made. threshold: the share of the image's area that divides local from global crops. local_size: px.
    """
    return {
        "global": replace(view, count=2, scale=(threshold, 1.0)),
        "local": replace(view, size=local_size, count=6, scale=(0.05, threshold)),
    }


def gaussian_views(size: int) -> dict[str, View]:
    """LeJEPA's views on ImageNet (arXiv:2511.08544), which VISReg takes over: two global and six local ones of the same colours."""
    view = View(size, blur=0.5, solarize=0.2, **BYOL_COLOR)
    return multi_crop(view, threshold=0.3, local_size=local_size(size, patch=4))


def masked_siamese_views(size: int) -> dict[str, View]:
    """MSN's views on ImageNet (arXiv:2204.07141 and its released code): a target and an anchor, and ten small focal views."""
    crop = {"blur": 0.5, **MOCO_COLOR}
    return {
        "target": View(size, scale=(0.3, 1.0), **crop),
        "anchor": View(size, scale=(0.3, 1.0), **crop),
        "focal": View(local_size(size, patch=4), count=10, scale=(0.05, 0.3), **crop),
    }


def masked_view(size: int, smallest: float, interpolation: str = "bilinear") -> dict[str, View]:
    """One crop of at least `smallest` of the image's area, flipped at times, its colours left alone: masking is the augmentation."""
    return {"single": View(size, scale=(smallest, 1.0), interpolation=interpolation)}


def local_size(size: int, patch: int = 1) -> int:
    """The px of a local view next to global views of `size` px, 96 to 224 as in the papers, in whole patches of `patch` px."""
    return max(1, size * 96 // 224) if patch == 1 else max(patch, patch * round(size * 96 / 224 / patch))
