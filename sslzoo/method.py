"""What a self-supervised method is: its configuration, three hooks, and how it is saved and loaded. READ FIRST."""

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

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
    load_stored,
    model_folder,
    no_larger_than,
    read_config,
    to_plain,
    without_pooler,
)
from sslzoo.errors import InputError, first_line
from sslzoo.files import atomic_update
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.views import View, uniform

BLOCK = "sslzoo"  # the key of the method's configuration in the encoder's config.json
HEADS = "ssl_heads.safetensors"


class Paper(NamedTuple):
    """Where a method comes from."""

    title: str
    authors: str  # "First Author and others"
    year: int
    arxiv: str | None  # "2002.05709"; None for a paper that is not there
    doi: str | None = None  # where there is no arXiv number

    @property
    def url(self) -> str:
        """Where the paper is."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"


class Reported(NamedTuple):
    """What the authors report of the method on ImageNet-1k, by a protocol of their own. value: a fraction; None: they do not say."""

    metric: str  # as in recipes, "linear_top1"
    value: float
    encoder: str
    epochs: int | None
    batch_size: int | None
    source: str  # a repository on GitHub, or "the paper"


class Progress(NamedTuple):
    """Where training stands, and the random numbers of the images at hand.

    step: optimiser steps done. steps: of the whole run. epoch: 0, 1, ... samples: int64 (n,), the images' rows in the data set.
    crops: gives, for each view, where it was cut from its image: int64 (n, 6), see `Renderer.crops`.
    """

    step: int
    steps: int
    epoch: int
    seed: int
    samples: Tensor
    crops: Callable[[], list[Tensor]] = list

    @property
    def fraction(self) -> float:
        """0.0 at the first step, 1.0 at the last."""
        return self.step / max(1, self.steps - 1)

    def draw(self, columns: int) -> Tensor:
        """Uniform numbers in [0, 1), (n, columns): the same for an image in this epoch, whatever the device and the batch it is in."""
        return uniform(self.samples, columns, self.seed, self.epoch, _LOSS)


_LOSS = -1  # where views have their index, so that the numbers of the loss are others


@strict
class MethodConfig(PreTrainedConfig):
    """Configuration of a method. Subclasses add the paper's hyper-parameters, its ImageNet values as defaults.

    encoder: a short name ("res50"), or a transformers configuration (as an object or a dict).
    image_size: px; what an encoder given by its name is made for.
    joint_views: views of one size go through the network in one batch, so that batch norms see them together; else one after another.
    """

    sub_configs = {"encoder": AutoConfig}

    encoder: str | dict | PreTrainedConfig = "res50"
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
        """What `from_pretrained` makes the configuration of: in a run folder config.json is the encoder's, with the method's in it.

        Raises `InputError` where the folder or repository holds none of this method.
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
        """Names and defaults of what the method adds, `joint_views` among them: the recipe's keys for it."""
        own = {field.name: field.default for field in fields(cls)}
        for field in (*fields(PreTrainedConfig), *(field for field in fields(MethodConfig) if field.name != "joint_views")):
            own.pop(field.name, None)
        return own


class Method(PreTrainedModel):
    """A self-supervised method: an encoder, whatever is trained around it, and three hooks.

    A subclass names its `config_class`, its `paper`, what its authors have `reported`, and which of its views may be of any `count`
    (`varied_views`; the loss is written for the counts of the others), keeps every state of its own in parameters and
    persistent buffers, initialises them itself in `__init__`, and defines `views` and `loss`, and `encoder` where that is not `backbone`.
    """

    config_class = MethodConfig
    # transformers renames loaded keys by this prefix: it must be the start of none.
    base_model_prefix = "sslzoo"
    main_input_name = "views"
    paper: Paper
    reported: tuple[Reported, ...] = ()
    varied_views: tuple[str, ...] = ()

    @staticmethod
    def views(size: int) -> dict[str, View]:
        """How each image is seen, by name; `size` px is the recipe's image size. A recipe may override any field of any view."""
        raise NotImplementedError

    def loss(self, views: list[Tensor], progress: Progress) -> dict[str, Tensor]:
        """From the views, each (n, 3, size, size) and in the order of `views`, to "loss", which is minimised.

        Other scalars are logged. Everything else goes to `after_step` without gradient; the first dimension of such a tensor counts
        rows: those of several micro-batches are put one behind the other.
        """
        raise NotImplementedError

    def after_step(self, out: dict[str, Tensor], progress: Progress) -> None:
        """Once after each optimiser step, without gradient: moves teachers, queues and centres. out: what `loss` gave beyond scalars."""

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder that is evaluated and published: `backbone`, unless a method says otherwise."""
        return self.backbone

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trainable parameters, in groups that weight decay and learning rate treat differently."""
        return decay_groups(self)

    def forward(self, views: list[Tensor], progress: Progress) -> dict[str, Tensor]:
        """`loss`, as a module's call, so that distributed training synchronises its gradients."""
        return self.loss(views, progress)

    def build_encoder(self) -> PreTrainedModel:
        """A fresh encoder after the configuration."""
        return build_encoder(self.config.encoder)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: encoders and heads have initialised themselves, and a teacher equals its student."""

    def save_pretrained(self, save_directory: str | Path, max_shard_size: int | str = "50GB") -> None:
        """Writes the published encoder as config.json and model.safetensors, plain transformers', and the rest as ssl_heads.safetensors.

        All of it or nothing: what was in the folder stays when it cannot be written, which raises `OSError`.
        """
        folder = Path(save_directory)
        plain = to_plain(self.encoder)
        plain.config.sslzoo = {"model_type": self.config.model_type, "image_size": self.config.image_size} | {
            key: getattr(self.config, key) for key in self.config.hyperparameters()
        }
        prefix = self._encoder_prefix()
        rest = {name: value.cpu().contiguous() for name, value in self.state_dict().items() if not name.startswith(prefix)}
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
        plain = load_stored(folder)
        values = {key: value for key, value in block.items() if key != "model_type"}
        foreign = values.keys() - {"image_size", *cls.config_class.hyperparameters()}
        if foreign:  # which transformers' configurations take without a word
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
            # Without memory at first: a number in a stranger's file may ask for any amount.
            with torch.device("meta"), no_larger_than({**rest, **plain.state_dict()}):
                described = cls(config)
        except Exception as error:  # of the strict data classes' own kinds, or of whatever layer a value is no size for
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
