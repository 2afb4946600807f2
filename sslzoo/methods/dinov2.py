"""DINOv2: DINO and iBOT with heads of their own, assignments that use all prototypes equally, and images that keep apart (KoLeo)."""

from dataclasses import replace
from functools import partial

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig

from sslzoo.encoders import embedding_parts, feature_width, features, token_grid
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.parts.block_masks import BLOCK_COLUMNS, block_masks, masked_patches
from sslzoo.parts.dino_head import DINOHead
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import count, count_or_none, dim, layers, positive, rows, share, weight
from sslzoo.parts.koleo import koleo
from sslzoo.parts.masked_prediction import check_mask_ratios, image_and_patches, masked_cross_entropy, patches_per_side
from sslzoo.parts.masking import gather_tokens
from sslzoo.parts.networks import forward_views
from sslzoo.parts.sinkhorn import sinkhorn_center
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.parts.temperature import warmed_up
from sslzoo.parts.usage import usage_entropy
from sslzoo.views.presets import dino_views


@strict
class DINOv2Config(MethodConfig):
    """The paper's method (arXiv:2304.07193), with the official sizes and schedules for ImageNet-1k.

    hidden_layers: linear layers before the bottleneck. bottleneck_dim: width before the prototypes.
    shared_head: whether one head serves images and patches, as in iBOT, or two.
    centering: "sinkhorn", by which a batch's images, and its masked patches, use all prototypes equally, or "softmax", after a running
        mean is subtracted. The official run on ImageNet-1k has a shared head and "softmax".
    sinkhorn_iterations: normalisations of rows and columns of the assignments.
    center_momentum: share of the running means, of images and of masked patches, that stays at each step.
    masked_views: how many of an image's two global views are masked, 1 or 2.
    smallest_mask_ratio, largest_mask_ratio: between which share of a masked view's patches are wanted.
    patch_weight: of the loss of the masked patches. koleo_weight: of the term that keeps each image's features away from the nearest
        others', of one process and micro-batch.
    warmup_teacher_temperature: where teacher_temperature starts, on a line over the first steps.
    warmup_teacher_temperature_share: the share of all steps over which it rises.
    frozen_epochs: first epochs, in which the prototypes are not trained.
    """

    model_type = "sslzoo-dinov2"

    encoder: PreTrainedConfig | str | dict = "dinov2-l16"
    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    bottleneck_dim: int = dim(256)
    prototypes: int = rows(65536)
    shared_head: bool = False
    centering: str = "sinkhorn"
    sinkhorn_iterations: int = layers(3)
    center_momentum: float | int = share(0.9)
    masked_views: int = count(1)
    smallest_mask_ratio: float | int = share(0.1)
    largest_mask_ratio: float | int = share(0.5)
    patch_weight: float | int = weight(1.0)
    koleo_weight: float | int = weight(0.1)
    student_temperature: float | int = positive(0.1)
    teacher_temperature: float | int = positive(0.07)
    warmup_teacher_temperature: float | int = positive(0.04)
    warmup_teacher_temperature_share: float | int = share(0.3)
    teacher_momentum: float | int = share(0.992)
    teacher_momentum_end: float | int = share(1.0)
    frozen_epochs: int = count_or_none(1)

    def validate_centering(self):
        if self.centering not in ("sinkhorn", "softmax"):
            raise ValueError(f"centering is '{self.centering}': choose 'sinkhorn' or 'softmax'")

    def validate_masked_views(self):
        if self.masked_views not in (1, 2):
            raise ValueError(f"masked_views is {self.masked_views}: choose 1 or 2 of an image's global views")

    def validate_largest_mask_ratio(self):
        check_mask_ratios(self.smallest_mask_ratio, self.largest_mask_ratio)


class DINOv2(Method):
    """One of each image's global views is masked, where the official code masks half of a device's; ratios are drawn for each by itself.

    So no mask depends on the batch, and heads see as many rows in each step. Encoders with a mask token of their own train and publish it.
    """

    config_class = DINOv2Config
    paper = Paper("DINOv2: Learning Robust Visual Features without Supervision", "Maxime Oquab and others", 2023, "2304.07193")
    reported = (  # of 125,000 steps, 200 passes over the images, which the authors call 100 epochs of 1,250 steps
        Reported("linear_top1", 0.829, "dinov2-l16", 200, 2048, "facebookresearch/dinov2"),
        Reported("knn_top1", 0.816, "dinov2-l16", 200, 2048, "facebookresearch/dinov2"),
    )
    varied_views = ("local",)

    def __init__(self, config: DINOv2Config):
        super().__init__(config)
        backbone = self.build_encoder()
        token_grid(backbone)  # raises `InputError` for encoders without tokens to mask
        width, parts = feature_width(backbone), embedding_parts(backbone)
        for special in (parts.class_token, parts.registers):
            if special is not None:  # transformers' registers are all 0 at first, and would stay equal
                nn.init.normal_(special, std=1e-6)
        sizes = (config.hidden_dim, config.hidden_layers, config.bottleneck_dim, config.prototypes)
        names = ["head"] if config.shared_head else ["head", "patch_head"]
        heads = {name: DINOHead(width, *sizes, trained_gain=True) for name in names}
        self.student = nn.ModuleDict({"backbone": backbone, **heads})
        if getattr(backbone.embeddings, "mask_token", None) is None:
            self.mask_token = nn.Parameter(torch.zeros(width))
        else:
            backbone.embeddings.mask_token.requires_grad_(True)
        self.teacher = frozen_copy(self.student)
        if config.centering == "softmax":
            self.register_buffer("center", torch.zeros(1, config.prototypes))
            self.register_buffer("patch_center", torch.zeros(1, config.prototypes))
        self.post_init()

    @property
    def encoder(self):
        return self.teacher["backbone"]

    @staticmethod
    def views(size):
        return dino_views(size, threshold=0.32, local_count=8, patch=4)

    def loss(self, views, progress):
        config, student, teacher = self.config, self.student, self.teacher
        head, patch_head = teacher["head"], teacher[self._patch_head]
        warmup = round(config.warmup_teacher_temperature_share * progress.steps)
        temperature = warmed_up(config.warmup_teacher_temperature, config.teacher_temperature, progress.step, warmup)
        masks, masked, valid = self._masks(views[:2], progress)

        with torch.no_grad():
            images, patches = zip(*forward_views(self, partial(image_and_patches, teacher["backbone"]), views[:2]), strict=True)
            targets = head(torch.stack(images, dim=1))
            patch_targets = patch_head(self._gather_masked(patches, masked))
            if config.centering == "softmax":
                center, patch_center = self.center, self.patch_center
            else:
                settings = config.prototypes, temperature, config.sinkhorn_iterations
                all_views = valid.new_ones(targets.shape[0] * 2)
                center = sinkhorn_center(head.logits, targets.flatten(0, 1), all_views, *settings)
                patch_center = sinkhorn_center(patch_head.logits, patch_targets.flatten(0, 1), valid.flatten(), *settings)
            logits = head.logits(targets)
            teacher_probs = ((logits - center) / temperature).softmax(dim=2)

        see = partial(image_and_patches, student["backbone"], mask_token=self._mask_token())
        images, patches = zip(*forward_views(self, see, views[:2], masks), strict=True)
        local = forward_views(self, partial(features, student["backbone"]), views[2:]) if views[2:] else []
        embeddings = student["head"](torch.stack((*images, *local), dim=1))
        patch_embeddings = student[self._patch_head](self._gather_masked(patches, masked))

        # Each pair of a teacher's global view and another view of the student has the same weight: 1/18 with eight local views.
        image_loss = swapped_cross_entropy(teacher_probs, embeddings, partial(self._predict, "head"))
        patch_loss = masked_cross_entropy(
            patch_targets, patch_embeddings, valid,
            lambda rows: ((patch_head.logits(rows) - patch_center) / temperature).softmax(dim=-1),
            partial(self._predict, self._patch_head), config.prototypes,
        )  # fmt: skip
        patch_loss = patch_loss * config.masked_views / 2  # a mean over both global views, in which one without a mask counts 0
        loss = image_loss + config.patch_weight * patch_loss
        out = {"image_loss": image_loss.detach(), "patch_loss": patch_loss.detach()}
        out["usage_entropy"] = usage_entropy(teacher_probs.flatten(0, 1))
        if config.koleo_weight:
            koleo_loss = koleo(images[0]) + koleo(images[1])
            loss, out["koleo_loss"] = loss + config.koleo_weight * koleo_loss, koleo_loss.detach()
        if config.centering == "softmax":
            out["teacher_mean"] = logits.mean(dim=(0, 1)).unsqueeze(0)
            # The logits are linear in the embeddings: those of a sum are their sum.
            out["teacher_patch_sum"] = patch_head.logits((patch_targets.float() * valid[..., None]).sum(dim=(0, 1))).detach().unsqueeze(0)
            out["masked_patches"] = valid.sum().view(1, 1)
        return {"loss": loss, **out}

    def after_step(self, out, progress):
        config = self.config
        if config.centering == "softmax":
            self.center.lerp_(gather(out["teacher_mean"]).mean(dim=0, keepdim=True), 1 - config.center_momentum)
            masked = gather(out["masked_patches"]).sum()
            mean = gather(out["teacher_patch_sum"]).sum(dim=0, keepdim=True) / masked.clamp(min=1)
            self.patch_center.lerp_(torch.where(masked > 0, mean, self.patch_center), 1 - config.center_momentum)
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        """Encoder and heads are sub-networks of their own, whose gradients are clipped each by itself where the recipe says so."""
        heads = [(name, module) for name, module in self.student.items() if name != "backbone"]
        of_heads = [parameter for _, head in heads for parameter in head.parameters()]
        groups = [replace(group, network="encoder") for group in decay_groups(self, exclude=of_heads)]
        for name, head in heads:
            last = list(head.last_layer())
            groups += [replace(group, network=name) for group in decay_groups(head, exclude=last)]
            groups.append(ParameterGroup(last, frozen_epochs=self.config.frozen_epochs, network=name))
        return groups

    @property
    def _patch_head(self):
        return "head" if self.config.shared_head else "patch_head"

    def _predict(self, head, embeddings):
        return self.student[head].logits(embeddings) / self.config.student_temperature

    def _masks(self, views, progress):
        """Each view's mask, bool (n, patches); of each masked view its masked patches, int64 (n * masked views, most) among the patches of
        both views, and which are such, bool.
        """
        config, patch = self.config, token_grid(self.student["backbone"])[1]
        side, other = (patches_per_side(view, patch) for view in views)
        if side != other:
            raise InputError(f"the global views have {views[0].shape[-1]} and {views[1].shape[-1]} px: must be of one size")
        count, patches, ratio = config.masked_views, side * side, (config.smallest_mask_ratio, config.largest_mask_ratio)
        first, noise = progress.draw(1 + count * BLOCK_COLUMNS).split((1, count * BLOCK_COLUMNS), dim=1)
        # Blocks of four patches or more, of fewer in small images.
        own = block_masks(noise.unflatten(1, (count, -1)).flatten(0, 1), side, ratio, 1.0, smallest=min(4, max(1, side // 3) ** 2))
        masked, valid = masked_patches(own, max(1, int(ratio[1] * patches)))
        view = (torch.arange(count, device=first.device) + (first < 0.5)) % 2  # of each mask, (n, masked views)
        of_images = own.unflatten(0, (-1, count))
        masks = [(of_images & (view == index)[..., None]).any(dim=1) for index in range(2)]
        return masks, masked + patches * view.flatten()[:, None], valid

    def _gather_masked(self, patches, masked):
        """The tokens of both views, (n, patches, width) each, at the places of `_masks`: (n * masked views, most, width)."""
        places = masked.unflatten(0, (-1, self.config.masked_views)).flatten(1)
        return gather_tokens(torch.cat(patches, dim=1), places).view(*masked.shape, -1)

    def _mask_token(self):
        own = getattr(self.student["backbone"].embeddings, "mask_token", None)
        return self.mask_token if own is None else own.flatten()
