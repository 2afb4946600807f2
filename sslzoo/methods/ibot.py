"""iBOT: DINO that also predicts, for each masked patch of a global view, to which prototypes the teacher assigns that patch."""

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from sslzoo.encoders import feature_width, features, token_grid
from sslzoo.method import Method, MethodConfig
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.parts.block_masks import BLOCK_COLUMNS, block_masks, masked_patches
from sslzoo.parts.dino_head import DINOHead
from sslzoo.parts.ema import ema_update, frozen_copy, momentum_schedule
from sslzoo.parts.gather import gather
from sslzoo.parts.hyperparameters import count_or_none, dim, layers, positive, rows, share, weight
from sslzoo.parts.masked_prediction import check_mask_ratios, image_and_patches, masked_cross_entropy, patches_per_side
from sslzoo.parts.masking import gather_tokens
from sslzoo.parts.networks import forward_views
from sslzoo.parts.swapped_prediction import swapped_cross_entropy
from sslzoo.parts.temperature import warmed_up
from sslzoo.parts.usage import usage_entropy
from sslzoo.views.presets import dino_views


@strict
class IBOTConfig(MethodConfig):
    """The official values for ViT-S/16 on ImageNet (arXiv:2111.07832), of its 800 epochs.

    hidden_layers: linear layers before the bottleneck. bottleneck_dim: width before the prototypes.
    head_norm: whether batch norms follow the hidden layers; images and patches are normalised separately. The kNN of small encoders gains.
    trained_gain: whether each prototype has a gain that is trained; the official ViT-B and ViT-L have none.
    masked_share: share of the global views that are masked. smallest_mask_ratio, largest_mask_ratio: between which share of a masked
        view's patches are wanted.
    patch_weight: of the loss of the masked patches.
    warmup_teacher_temperature: where teacher_temperature starts, on a line over the first epochs.
    warmup_teacher_temperature_epochs: how many epochs that takes.
    center_momentum: share of the centres of the teacher's logits, of images and of patches, that stays at each step.
    frozen_epochs: first epochs, in which the prototypes are not trained.
    """

    model_type = "sslzoo-ibot"

    encoder: PreTrainedConfig | str | dict = "vit-s16"
    hidden_dim: int = dim(2048)
    hidden_layers: int = layers(2)
    bottleneck_dim: int = dim(256)
    head_norm: bool = False
    prototypes: int = rows(8192)
    trained_gain: bool = True
    masked_share: float | int = share(0.5)
    smallest_mask_ratio: float | int = share(0.1)
    largest_mask_ratio: float | int = share(0.5)
    patch_weight: float | int = weight(1.0)
    student_temperature: float | int = positive(0.1)
    teacher_temperature: float | int = positive(0.07)
    warmup_teacher_temperature: float | int = positive(0.04)
    warmup_teacher_temperature_epochs: int = count_or_none(30)
    center_momentum: float | int = share(0.9)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)
    frozen_epochs: int = count_or_none(1)

    def validate_largest_mask_ratio(self):
        check_mask_ratios(self.smallest_mask_ratio, self.largest_mask_ratio)


class IBOT(Method):
    """One head serves images and patches, each with a centre of its own. Patches are predicted from the same view alone.

    Only masked patches go through the student's head, in as many rows as the largest mask has patches.
    """

    config_class = IBOTConfig
    paper = Paper("iBOT: Image BERT Pre-Training with Online Tokenizer", "Jinghao Zhou and others", 2021, "2111.07832")
    reported = (
        Reported("linear_top1", 0.779, "vit-s16", 800, 1024, "bytedance/ibot"),
        Reported("knn_top1", 0.752, "vit-s16", 800, 1024, "bytedance/ibot"),
        Reported("finetune_top1", 0.823, "vit-s16", 800, 1024, "bytedance/ibot"),
        Reported("linear_top1", 0.795, "vit-b16", None, 1024, "bytedance/ibot"),
        Reported("knn_top1", 0.771, "vit-b16", None, 1024, "bytedance/ibot"),
        Reported("finetune_top1", 0.84, "vit-b16", None, 1024, "bytedance/ibot"),
    )
    varied_views = ("local",)

    def __init__(self, config: IBOTConfig):
        super().__init__(config)
        backbone = self.build_encoder()
        token_grid(backbone)  # raises `InputError` for encoders without tokens to mask
        width = feature_width(backbone)
        head = DINOHead(
            width, config.hidden_dim, config.hidden_layers, config.bottleneck_dim, config.prototypes, config.head_norm, config.trained_gain
        )
        self.student = nn.ModuleDict({"backbone": backbone, "head": head})
        self.teacher = frozen_copy(self.student)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.register_buffer("patch_center", torch.zeros(1, config.prototypes))
        self.post_init()

    @property
    def encoder(self):
        return self.teacher["backbone"]

    @staticmethod
    def views(size):
        return dino_views(size, threshold=0.25, local_count=10, patch=4)

    def loss(self, views, progress):
        config, student, teacher = self.config, self.student["head"], self.teacher["head"]
        epochs = config.warmup_teacher_temperature_epochs
        temperature = warmed_up(config.warmup_teacher_temperature, config.teacher_temperature, progress.epoch, epochs)
        masks, masked, valid = self._masks(views[:2], progress)

        with torch.no_grad():
            targets, patch_targets, patch_means = zip(*forward_views(self, self._targets, views[:2], masked), strict=True)
            logits = teacher.logits(torch.stack(targets, dim=1))
            teacher_probs = ((logits - self.center) / temperature).softmax(dim=2)
            # The logits are linear in the embeddings, so that the mean over all patches needs no logits of those that are not masked.
            patch_mean = teacher.logits(torch.cat(patch_means).mean(dim=0, keepdim=True).to(targets[0].dtype))
        embeddings, patches = zip(*forward_views(self, self._predict, views[:2], masks, masked), strict=True)
        local = forward_views(self, lambda pixels: student(features(self.student["backbone"], pixels)), views[2:]) if views[2:] else []

        def predict(embeddings: Tensor) -> Tensor:
            return student.logits(embeddings) / config.student_temperature

        def assign(embeddings: Tensor) -> Tensor:
            return ((teacher.logits(embeddings) - self.patch_center) / temperature).softmax(dim=-1)

        image_loss = swapped_cross_entropy(teacher_probs, torch.stack((*embeddings, *local), dim=1), predict)
        patch_rows = torch.cat(patch_targets), torch.cat(patches), torch.cat(valid)
        patch_loss = masked_cross_entropy(*patch_rows, assign, predict, config.prototypes)
        return {
            "loss": image_loss + config.patch_weight * patch_loss,
            "image_loss": image_loss.detach(), "patch_loss": patch_loss.detach(),
            "usage_entropy": usage_entropy(teacher_probs.flatten(0, 1)),
            "teacher_mean": logits.mean(dim=(0, 1)).unsqueeze(0), "teacher_patch_mean": patch_mean,
        }  # fmt: skip

    def after_step(self, out, progress):
        config = self.config
        for center, mean in ((self.center, out["teacher_mean"]), (self.patch_center, out["teacher_patch_mean"])):
            center.lerp_(gather(mean).mean(dim=0, keepdim=True), 1 - config.center_momentum)
        ema_update(self.teacher, self.student, momentum_schedule(config.teacher_momentum, config.teacher_momentum_end, progress.fraction))

    def parameter_groups(self):
        last = list(self.student["head"].last_layer())
        return [*decay_groups(self, exclude=last), ParameterGroup(last, frozen_epochs=self.config.frozen_epochs)]

    def _masks(self, views, progress):
        """For each view its mask, bool (n, patches), the masked patches, int64 (n, most), and which of them are such, bool (n, most)."""
        config, patch = self.config, token_grid(self.student["backbone"])[1]
        masks, masked, valid = [], [], []
        for view, noise in zip(views, progress.draw(len(views) * BLOCK_COLUMNS).chunk(len(views), dim=1), strict=True):
            side, ratio = patches_per_side(view, patch), (config.smallest_mask_ratio, config.largest_mask_ratio)
            masks.append(block_masks(noise, side, ratio, config.masked_share, smallest=max(1, side // 3) ** 2))
            indices, own = masked_patches(masks[-1], max(1, int(config.largest_mask_ratio * side * side)))
            masked.append(indices)
            valid.append(own)
        return masks, masked, valid

    def _predict(self, pixels, mask, masked):
        """The student's embeddings of masked images, (n, d), and of their masked patches, (n, most, d)."""
        image, patches = image_and_patches(self.student["backbone"], pixels, mask, self.mask_token)
        return _embed(self.student["head"], image, gather_tokens(patches, masked))

    def _targets(self, pixels, masked):
        """The teacher's embeddings of images, (n, d), and of the patches that the student does not see, (n, most, d); all patches' mean."""
        image, patches = image_and_patches(self.teacher["backbone"], pixels)
        image, patches = _embed(self.teacher["head"], image, patches)
        return image, gather_tokens(patches, masked), patches.float().mean(dim=1)


def _embed(head, image, patches):
    """Embeddings of images, (n, d), and of their patches, (n, patches, d). Two calls, so that batch norms do not mix them."""
    return head(image), head(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
