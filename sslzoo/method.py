"""What a self-supervised method is: its configuration, three hooks, and how it is saved and loaded. READ FIRST."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from sslzoo.encoders import (
    build_encoder,
    check_finite,
    encoder_config,
    limit_size,
    load_pretrained,
    model_folder,
    read_config,
    to_plain,
    without_pooler,
)
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_update
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.views import View, hash_words, uniform

BLOCK = "sslzoo"  # the key of the method's configuration in the encoder's config.json
HEADS = "ssl_heads.safetensors"


@dataclass(frozen=True, eq=False)
class Progress:
    """How far training is, and the random numbers of the batch's images.

    step: optimiser steps done. steps: of the whole run. epoch: 0, 1, ... samples: int64 (n,), the images' row numbers in the data set.
    crops: returns where each view was cut from its image, int64 (n, 6) for each: see `Renderer.crops`.
    words: int64 (3,) on the CPU, the key of the loss's random numbers. Made here, as the compiler cannot trace the hash.
    """

    step: int
    steps: int
    epoch: int
    seed: int
    samples: Tensor
    crops: Callable[[], list[Tensor]] = list
    words: Tensor = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "words", torch.tensor(hash_words(self.seed, self.epoch, _LOSS)))

    @property
    def fraction(self) -> float:
        """0.0 at the first step, 1.0 at the last."""
        return self.step / max(1, self.steps - 1)

    def draw(self, columns: int) -> Tensor:
        """Uniform numbers in [0, 1), (n, columns): a function of image and epoch, independent of the device and the rest of the batch."""
        return uniform(self.samples, columns, self.words)


_LOSS = -1  # in the place of a view's index, so that losses and views draw different numbers


@strict
class MethodConfig(PreTrainedConfig):
    """Configuration of a method. Subclasses add the paper's hyper-parameters, its ImageNet values as defaults.

    encoder: a short name ("res50"), or a transformers configuration (as an object or a dict).
    image_size: px, of the encoder where it is given by its name.
    joint_views: views of one size go through the network in one batch, so that batch norms see them together; else one by one.

    What subclasses mean by the same name:
    hidden_dim, hidden_layers: width and number of the projector's hidden layers. projection_dim: width of its output.
    prediction_dim, predictor_dim: width of the predictor's hidden layer.
    prototypes: vectors that images are assigned to. queue_length: embeddings of earlier batches that are kept.
    temperature, student_temperature, teacher_temperature: what similarities are divided by before the softmax.
    teacher_momentum, teacher_momentum_end: share of the teacher that stays at each update, at the first step and, by a cosine, at the last.
    mask_ratio: share of the patches that are masked.
    invariance_weight, variance_weight, covariance_weight: of the terms of the loss.
    """

    sub_configs = {"encoder": AutoConfig}

    # The object stands first: each type that fails has the whole value spelt out for its error, although another one fits.
    encoder: PreTrainedConfig | str | dict = "res50"
    image_size: int = 224
    joint_views: bool = True

    def __post_init__(self, **kwargs):
        if isinstance(self.encoder, str):
            self.encoder = encoder_config(self.encoder, self.image_size)
        elif isinstance(self.encoder, dict):
            values = dict(self.encoder)
            self.encoder = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values for `from_pretrained`: a run folder's config.json is the encoder's, with a block that holds the method's.

        Raises `InputError` where the folder or repository holds no configuration of this method.
        """
        values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        block = values.pop(BLOCK, None)
        if isinstance(block, dict):
            values = {**block, "encoder": values}
        if cls.model_type and values.get("model_type") != cls.model_type:
            raise InputError(f"{pretrained_model_name_or_path} holds '{values.get('model_type')}', not '{cls.model_type}'")
        return values, rest

    @classmethod
    def hyperparameters(cls) -> dict[str, Any]:
        """Names and defaults of the method's own hyper-parameters and of `joint_views`: the recipe's keys for them."""
        own = {each.name: each.default for each in fields(cls)}
        for each in (*fields(PreTrainedConfig), *(each for each in fields(MethodConfig) if each.name != "joint_views")):
            own.pop(each.name, None)
        return own


class Method(PreTrainedModel):
    """A self-supervised method: an encoder, whatever is trained around it, and three hooks.

    A subclass names its `config_class`, its `paper`, what its authors have `reported`, and those of its views that may have any `count`
    (`varied_views`; the loss relies on the counts of the others). It keeps all its state in parameters and persistent buffers,
    initialises them in `__init__`, and defines `views` and `loss`, and `encoder` where that is not `backbone`.
    """

    config_class: type[MethodConfig] = MethodConfig
    # transformers strips this prefix from loaded keys, so no key may start with it.
    base_model_prefix = "sslzoo"
    main_input_name = "views"
    paper: Paper
    reported: tuple[Reported, ...] = ()
    varied_views: tuple[str, ...] = ()
    unpublished: tuple[str, ...] = ()  # how the names of states begin that are in checkpoints alone, and not made by `__init__`

    @staticmethod
    def views(size: int) -> dict[str, View]:
        """The random views of each image, by name; `size` px is the recipe's image size. A recipe may override any field of any view."""
        raise NotImplementedError

    def loss(self, views: list[Tensor], progress: Progress) -> dict[str, Tensor]:
        """Computes "loss", which is minimised, from the views, each (n, 3, size, size), in the order of `views`.

        Other scalars of the result are logged. All other tensors go to `after_step`, without gradient; those of several micro-batches
        are concatenated along the first dimension.
        """
        raise NotImplementedError

    def after_step(self, out: dict[str, Tensor], progress: Progress) -> None:
        """Updates teachers, queues and centres, once after each optimiser step and without gradient. out: what `loss` gave but scalars."""

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder that is evaluated and published: `backbone`, unless a method says otherwise."""
        return self.backbone

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trainable parameters, in groups of different weight decay or learning rate."""
        return decay_groups(self)

    def forward(self, views: list[Tensor], progress: Progress) -> dict[str, Tensor]:
        """`loss` as the module's call, so that distributed training synchronises its gradients."""
        return self.loss(views, progress)

    def build_encoder(self) -> PreTrainedModel:
        """A new encoder, as configured."""
        return build_encoder(self.config.encoder)

    def init_encoders(self, pretrained: PreTrainedModel) -> None:
        """Gives every copy of the encoder the weights of a pretrained one of the same architecture. Raises `InputError`."""
        weights = without_pooler(pretrained)
        if getattr(self.encoder, "head", None) is None:  # SigLIP's, which masked methods leave out
            weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
        for module in self.modules():
            if type(module) is type(self.encoder):
                own = module.state_dict()
                wrong = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
                if wrong:
                    raise InputError(f"the pretrained weights do not fit the encoder: {len(wrong)} tensors, the first is '{wrong[0]}'")
                module.load_state_dict(weights)

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: encoders and heads initialise themselves, and a teacher must equal its student."""

    def save_pretrained(self, save_directory: str | Path, max_shard_size: int | str = "50GB") -> None:
        """Writes the encoder as config.json and model.safetensors in plain transformers form, and the rest as ssl_heads.safetensors.

        Raises `OSError` when it cannot write; the folder then is as it was before.
        """
        folder = Path(save_directory)
        plain = to_plain(self.encoder)
        plain.config.sslzoo = {"model_type": self.config.model_type, "image_size": self.config.image_size} | {
            key: getattr(self.config, key) for key in self.config.hyperparameters()
        }
        others = (self._encoder_prefix(), *self.unpublished)
        rest = {name: value.cpu().contiguous() for name, value in self.state_dict().items() if not name.startswith(others)}
        with atomic_update(folder) as temporary:
            plain.save_pretrained(temporary, max_shard_size=max_shard_size)
            save_file(rest, temporary / HEADS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, token: str | bool | None = None,
        cache_dir: str | None = None, local_files_only: bool = False,
    ) -> "Method":  # fmt: skip
        """The whole method from a run folder or a Hub id, bit for bit, in training mode and ready to go on.

        Raises `InputError` where the files are not of this method, are damaged or do not fit together. Reads safetensors alone.
        """
        folder = model_folder(
            pretrained_model_name_or_path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        block = read_block(folder)
        if block["model_type"] != cls.config_class.model_type:
            raise InputError(f"{folder} holds '{block['model_type']}', not '{cls.config_class.model_type}': use sslzoo.load")
        plain = load_pretrained(folder)
        values = {key: value for key, value in block.items() if key != "model_type"}
        foreign = values.keys() - {"image_size", *cls.config_class.hyperparameters()}
        if foreign:  # transformers' configurations accept them silently
            raise InputError(f"the '{BLOCK}' block of {folder / 'config.json'} has a key that {cls.__name__} has not: '{min(foreign)}'")
        encoder = copy.deepcopy(plain.config)
        del encoder.sslzoo
        try:
            rest = load_file(folder / HEADS)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot read {folder / HEADS}: {first_line(error)}") from error
        check_finite(rest, folder / HEADS)
        try:
            config = cls.config_class(encoder=encoder, **values)
            # On `meta` first: a wrong number in the file could ask for any amount of memory.
            with torch.device("meta"), limit_size({**rest, **plain.state_dict()}):
                described = cls(config)
        except Exception as error:  # the strict data classes' own exceptions, or those of any layer that cannot have such a size
            reason = first_line(error.__cause__ or error)
            raise InputError(f"cannot build {cls.__name__} from the '{BLOCK}' block of {folder / 'config.json'}: {reason}") from error
        prefix = described._encoder_prefix()
        state = {**rest, **{prefix + name: value for name, value in without_pooler(plain).items()}}
        own = described.state_dict()
        wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
        if wrong:
            raise InputError(f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors, the first is '{wrong[0]}'")
        method = cls(config)
        method.load_state_dict(state)
        return method.train()

    def _encoder_prefix(self) -> str:
        return next(name for name, module in self.named_modules() if module is self.encoder) + "."


def read_block(folder: Path) -> dict[str, Any]:
    """The method's configuration in config.json: "model_type" and its hyper-parameters. Raises `InputError` where there is none."""
    block = read_config(folder).get(BLOCK)
    if not isinstance(block, dict) or not isinstance(block.get("model_type"), str):
        raise InputError(f"{folder} holds no method of sslzoo: its config.json has no '{BLOCK}' block (AutoModel loads the encoder alone)")
    return block
