"""The configuration of a method: its encoder and its hyper-parameters."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from sslzoo.encoders import encoder_config, from_description
from sslzoo.errors import InputError
from sslzoo.method_files import BLOCK


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
            self.encoder = from_description(self.encoder)
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
