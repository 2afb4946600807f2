"""Converting between an encoder in training and its published form, which plain transformers loads.

`AutoModel` always adds a pooling layer to a ViT, with random weights if the file has none. A published ViT therefore has a pooling layer
that is the identity: identity weights, zero bias, linear activation. During training there is none.
"""

import copy

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from .small_resnet import SmallResNetConfig, SmallResNetForImageClassification, SmallResNetModel

AutoConfig.register(SmallResNetConfig.model_type, SmallResNetConfig, exist_ok=True)
AutoModel.register(SmallResNetConfig, SmallResNetModel, exist_ok=True)
AutoModelForImageClassification.register(SmallResNetConfig, SmallResNetForImageClassification, exist_ok=True)
# Saving then copies the two files of their code into the folder, for loading without sslzoo.
SmallResNetConfig.register_for_auto_class("AutoConfig")
SmallResNetModel.register_for_auto_class("AutoModel")
SmallResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

_WITH_HEAD = f"{SmallResNetForImageClassification.__module__.rpartition('.')[2]}.{SmallResNetForImageClassification.__name__}"

_DENSE_POOLERS = ("vit", "deit")  # whose classes have a pooling layer, tanh of a dense one
_RANDOM = {
    "drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "pos_embed_shift", "pos_embed_jitter",
    "pos_embed_rescale",
}  # fmt: skip


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A newly initialised encoder, in training mode, that computes the same each time and has no pooling layer that `features` do not use.

    Stochastic depth, dropout and DINOv3's random scaling of positions are off, and so in its configuration: whatever is random while
    training is drawn by the methods. A mask token of its own, on which `features` do not depend, requires no gradient.
    """
    config = copy.deepcopy(config)
    config.dtype = None  # float32, also where its published weights are not
    for key in _RANDOM & vars(config).keys():
        setattr(config, key, None if key.startswith("pos_embed") else 0.0)
    if config.model_type in _DENSE_POOLERS:
        encoder = MODEL_MAPPING[type(config)](config, add_pooling_layer=False)
    else:
        encoder = AutoModel.from_config(config)
    for name, parameter in encoder.named_parameters():
        if name.endswith("mask_token"):  # for which distributed training would wait
            parameter.requires_grad_(False)
    return encoder


def to_plain(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of the encoder on the CPU in float32, in the form that `AutoModel.from_pretrained` loads without warnings."""
    config = copy.deepcopy(encoder.config)
    if isinstance(config, SmallResNetConfig):  # saving adds the classes of the encoder and its configuration only
        config.auto_map = {"AutoModelForImageClassification": _WITH_HEAD}
    if config.model_type in _DENSE_POOLERS:
        config.pooler_act, config.pooler_output_size = "linear", config.hidden_size
    plain = type(encoder)(config)
    if config.model_type in _DENSE_POOLERS:
        with torch.no_grad():
            nn.init.eye_(plain.pooler.dense.weight)
            nn.init.zeros_(plain.pooler.dense.bias)
    own = {name: value for name, value in encoder.state_dict().items() if not _in_dense_pooler(config, name)}
    plain.load_state_dict({**plain.state_dict(), **own})
    return plain.eval()


def without_pooler(plain: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of an encoder in its published form, under the names that `build_encoder`'s have."""
    return {name: value for name, value in plain.state_dict().items() if not _in_dense_pooler(plain.config, name)}


def _in_dense_pooler(config: PreTrainedConfig, name: str) -> bool:
    return config.model_type in _DENSE_POOLERS and name.startswith("pooler.")
