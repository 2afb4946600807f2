"""What a self-supervised method is: three hooks around an encoder. READ FIRST."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sslzoo.encoders import build_encoder, misfits, without_pooler
from sslzoo.errors import InputError
from sslzoo.method_config import MethodConfig
from sslzoo.optim import ParameterGroup, decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.pretrained_method import PreTrainedMethod
from sslzoo.views import View, hash_words, uniform


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


class Method(PreTrainedMethod):
    """A self-supervised method: an encoder, whatever is trained around it, and three hooks.

    A subclass names its `config_class`, its `paper`, what its authors have `reported`, those of its views that may have any `count`
    (`varied_views`; the loss relies on the counts of the others), and its parameters that keep their first values (`frozen`). It keeps all
    its state in parameters and persistent buffers, initialises them in `__init__`, and defines `views` and `loss`, and `encoder` where
    that is not `backbone`.
    """

    config_class: type[MethodConfig] = MethodConfig
    paper: Paper
    reported: tuple[Reported, ...] = ()
    varied_views: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()  # parts of the names of parameters that are neither trained nor averages of trained ones
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
        for encoder in self.encoders():
            if wrong := misfits(encoder.state_dict(), weights):
                raise InputError(f"the pretrained weights do not fit the encoder: {len(wrong)} tensors, the first is '{wrong[0]}'")
            encoder.load_state_dict(weights)
