"""The recipe: its keys, their defaults, and which values are valid."""

import dataclasses
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import PreTrainedConfig

from sslzoo.data import source_name
from sslzoo.encoders import encoder_config, from_description
from sslzoo.errors import InputError, first_line, unknown
from sslzoo.evaluation import Preprocessing, protocol_named
from sslzoo.method import Method, MethodConfig
from sslzoo.methods import method_class
from sslzoo.parts.distillation import DistillationMixin, FrozenTeacher
from sslzoo.views import IMAGENET_MEAN, IMAGENET_STD, View

from .encoder_keys import check_encoders
from .limits import CHOICES, NESTED, PATHS, RANGES
from .method_memory import check_memory
from .names import HUB_NAME, MAX_LENGTH, derived_name, encoder_name
from .values import check_range, pixels
from .view_sizes import patch_size, views_of


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One run. Fields without a default must be in the file.

    name: of the run folder, the card and the Hub repository; None: method-encoder-dataset.
    encoder: a short name, or the description of a configuration (see `encoders.describe`); in a file also a Hub id or a folder with weights
        of transformers, whose architecture is meant.
    method: its name, such as "simclr".
    dataset: a Hub id, a folder, a Parquet file, or "digits". train_split, test_split: its splits. Nothing is measured while training where
        test_split is None, or a data set without splits has no "test".
    image_column, label_column: None: found by type or name; label_column "none": no labels.
    canvas: px, of the squares as which images are kept, see `sslzoo.data.load_images`; None: follows from the views.
    channels: of each image, as in `sslzoo.data.load_images`. Other than 3, views leave colours alone, and mean and std default to None.
    broken_share: the largest fraction of broken images, 0 to 1; with more the run stops.
    image_size: px, of the views and the encoder's input. Sizes of views, eval_resize and eval_crop may be given as shares of it: a
        fraction such as 0.5, rounded to a multiple of the encoder's patch size. Global views have the image size by default.
    eval_resize, eval_crop: px, short side and centre crop in evaluation; None: eval_crop, and image_size.
    init_from: the weights that training starts from, "id@commit" or a folder; init_sha256: their digest; init_license: the licence that
        their card names. In a file "id", "id@revision" or a folder; the rest, and an encoder that is left out, follow (`starting_point`).
    teacher: of a distillation method, "id@commit" or a folder; teacher_sha256, teacher_license: as those of init_from, and so is how all of
        these follow from "id", "id@revision" or a folder. teacher_mean, teacher_std: what its images are normalised with. teacher_size: px,
        to which its crops are resized, by default of transformers alone; None: as they are.
    mean, std: of the channels (0 to 1), which views and evaluation are normalised with; None: to be measured on the training images before
        the first step, and kept in the run's recipe.
    batch_size: images per optimiser step, over all devices and micro-batches. accumulate: micro-batches per step. Losses that compare
        the images of a batch (contrastive, correlations, prototypes) see one micro-batch at a time, lr_scaling uses the full batch.
    epochs: passes over the images. optimizer: "sgd", "adam", "adamw" or "lars".
    weight_decay: of the optimiser, at the first step. weight_decay_end: where it goes on half a cosine, step by step; None: it stays.
    lr: the peak learning rate, before lr_scaling. lr_scaling: what it is multiplied by, such as "batch/256" of the batch size.
    schedule: of the learning rate, see `sslzoo.optim`. warmup_epochs: first epochs, in which it rises linearly; a run shorter than its
        warm-up never reaches the peak. warmup_lr: of the first step, a share of the peak; None: one part of as many as the warm-up has
        steps. final_lr: where the schedule ends, a multiple of the peak.
    encoder_lr_factor: multiplies the encoder's learning rate. layer_decay: of a transformer, each block's learning rate is this times the
        next one's. patch_lr_factor: multiplies that of a transformer's patch projection.
    encoder_frozen_epochs: first epochs, in which only what is around the encoder is trained.
    drop_path: the rate at which images skip residual branches of the student (see `parts.drop_path`): in the last block, and in those
        before it from 0 on a line. drop_path_uniform: whether it is the rate of all blocks.
    momentum: of SGD and LARS. betas: of AdamW. decay_norm_and_bias: apply weight decay to norms and biases too, of the heads alone
        where the encoder's weights are from `init_from`.
    clip_norm: the largest gradient norm, None: no clipping. clip: whether it is that of all gradients together ("global"), of each
        tensor's ("tensor") or of each sub-network's ("network": the encoder and what is around it, or as the method divides itself).
    precision: "fp32", or the type of autocast. compile: torch.compile for the loss and the colours of views;
        "auto": off, until most methods have been seen faster on a GPU. What cannot be compiled costs a warning.
    gradient_checkpointing: compute a transformer's blocks again in the backward pass: the same gradients in less memory.
    attn_implementation: of a transformer, in training: "eager" or "sdpa" (torch's fused one); None: "sdpa" where it has it.
    seed: of the initial weights, the order of the images, the views and the loss.
    protocols: names in `sslzoo.evaluation.PROTOCOLS`, which `sslzoo evaluate` uses by default.
    knn_every: epochs between kNN evaluations during training (0: only after the last epoch).
    log_every, checkpoint_every: optimiser steps. tracker: one of Accelerate's, such as "trackio", "wandb" or
        "tensorboard", in addition to metrics.jsonl.
    hyperparameters: the method's own, by the names in its configuration.
    views: fields of views that differ from the method's, {"local": {"count": 8, "size": 0.5}}; in the file `view.local.count: 8`.
    reference_k: k of the reference's kNN numbers, whose temperature is 0.1.
    reference: the reference page's numbers for this recipe, as fractions; in the file `reference.knn_top1: 0.848`.
    """

    method: str
    encoder: str | dict[str, Any]
    dataset: str
    image_size: int
    batch_size: int
    epochs: int
    optimizer: str
    lr: float
    lr_scaling: str
    schedule: str
    weight_decay: float
    name: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    image_column: str | None = None
    label_column: str | None = None
    channels: int = 3
    canvas: int | None = None
    init_from: str | None = None
    init_sha256: str | None = None
    init_license: str | None = None
    teacher: str | None = None
    teacher_sha256: str | None = None
    teacher_license: str | None = None
    teacher_mean: tuple[float, float, float] | None = None
    teacher_std: tuple[float, float, float] | None = None
    teacher_size: int | None = None
    mean: tuple[float, ...] | None = IMAGENET_MEAN
    std: tuple[float, ...] | None = IMAGENET_STD
    broken_share: float = 0.01
    eval_resize: int | float | None = None
    eval_crop: int | float | None = None
    accumulate: int = 1
    weight_decay_end: float | None = None
    warmup_epochs: float = 0.0
    warmup_lr: float | None = None
    final_lr: float = 0.0
    encoder_lr_factor: float = 1.0
    layer_decay: float = 1.0
    patch_lr_factor: float = 1.0
    encoder_frozen_epochs: int = 0
    drop_path: float = 0.0
    drop_path_uniform: bool = False
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None
    clip: str = "global"
    precision: str = "fp32"
    compile: Literal["auto"] | bool = "auto"
    gradient_checkpointing: bool = False
    attn_implementation: str | None = None
    seed: int = 0
    protocols: tuple[str, ...] = ("knn-instdisc-v2",)
    knn_every: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    tracker: str | None = None
    reference_k: int = 200
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    views: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    reference: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            if isinstance(value, str) and value not in choices:
                raise unknown(key, value, choices)
        for key in ("dataset", "train_split", "test_split", "image_column", "label_column", "init_from", "teacher"):
            if getattr(self, key) is not None and not getattr(self, key).strip():
                raise InputError(f"{key} is blank: name one, or leave the key out")
        for key, (low, high) in RANGES.items():
            if getattr(self, key) is not None:
                check_range(key, getattr(self, key), low, high)
        for metric, value in self.reference.items():
            check_range(f"reference.{metric}", value, 0, 1)
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} cannot be divided into accumulate: {self.accumulate} micro-batches")
        for key, values in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if not all(0 <= value < 1 for value in values):
                raise InputError(f"{key} is {getattr(self, key)}: must be 0 or more and less than 1")
        if self.name is not None and not HUB_NAME.fullmatch(self.name):
            allowed = f"letters, digits, '_', and single '-' and '.' between them, {MAX_LENGTH} at most"
            raise InputError(f"name '{self.name}' is not a name for a Hub repository: {allowed}")
        object.__setattr__(self, "name", self.name or derived_name(self.method, self.encoder, self.dataset, self.init_from, self.teacher))
        if self.channels != 3 and (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            object.__setattr__(self, "mean", None)
            object.__setattr__(self, "std", None)
        encoder = self.method_config().encoder
        for key, default in (("eval_crop", "image_size"), ("eval_resize", "eval_crop")):
            size = getattr(self, key)
            size = getattr(self, default) if size is None else pixels(key, size, self.image_size, patch_size(encoder))
            object.__setattr__(self, key, size)
        check_encoders(self)
        for protocol in self.protocols:
            protocol_named(protocol)
        self._views_for(encoder)

    @property
    def encoder_name(self) -> str:
        """The encoder's short name, or what its description is called."""
        return encoder_name(self.encoder)

    @property
    def adaptation(self) -> str:
        """How the first convolution of the weights that training starts from is adapted to the channels; "" if it is not."""
        found = self.encoder.get("num_channels", 3) if isinstance(self.encoder, dict) else 3
        if self.init_from is None or found == self.channels:
            return ""
        return f"adapted from {found} to {self.channels} channels: each has the sum of the weights over the {found}, / {self.channels}"

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared in evaluation. Until mean and std are measured, they are 0 and 1."""
        mean, std = self.mean or (0.0,) * self.channels, self.std or (1.0,) * self.channels
        return Preprocessing(self.eval_resize, self.eval_crop, mean=mean, std=std)

    def method_config(self) -> MethodConfig:
        """The method's configuration. Raises `InputError`."""
        try:
            encoder = encoder_config(self.encoder, self.image_size) if isinstance(self.encoder, str) else from_description(self.encoder)
            encoder.num_channels = self.channels  # all families of images call it so
            return method_class(self.method).config_class(encoder=encoder, image_size=self.image_size, **self.hyperparameters)
        except InputError:
            raise
        except Exception as error:  # strict data classes raise their own kinds
            field = str(error).split("'")[1] + " " if isinstance(error, StrictDataclassFieldValidationError) else ""
            raise InputError(field + " ".join(str(error.__cause__ or error).split())) from error

    def make_method(self) -> Method:
        """A freshly initialised method, from torch's global random state. Raises `InputError` like `method_on_meta`."""
        self.method_on_meta()
        return method_class(self.method)(self.method_config())

    def method_on_meta(self, teacher: FrozenTeacher | None = None) -> Method:
        """The method on the meta device, with its teacher. Raises `InputError` if it cannot be built or would not fit into memory."""
        try:
            with torch.device("meta"):
                method = method_class(self.method)(self.method_config())
                if teacher is not None and isinstance(method, DistillationMixin):
                    method.set_teacher(teacher)
        except InputError:
            raise
        except Exception as error:  # from whichever layer an invalid value reaches
            raise InputError(f"recipe '{self.name}': cannot build {self.method}: {first_line(error)}") from error
        check_memory(method, self.hyperparameters)
        return method

    def make_views(self) -> dict[str, View]:
        """The method's views with the recipe's values. Raises `InputError`."""
        return self._views_for(self.method_config().encoder)

    def _views_for(self, encoder: PreTrainedConfig) -> dict[str, View]:
        return views_of(method_class(self.method), encoder, self.image_size, self.views)

    def public(self) -> "Recipe":
        """The recipe as it is published: only the last part of local paths."""
        return dataclasses.replace(self, **{key: source_name(path) for key in PATHS if (path := getattr(self, key)) is not None})

    def flat(self) -> dict[str, Any]:
        """All keys and values as in `recipe.yaml`, including the defaults of the method and its views."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in NESTED}
        config = self.method_config()
        values |= {key: getattr(config, key) for key in config.hyperparameters()}
        for name, view in self._views_for(config.encoder).items():
            values |= {f"view.{name}.{field}": value for field, value in dataclasses.asdict(view).items()}
        values |= {f"reference.{metric}": value for metric, value in self.reference.items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
