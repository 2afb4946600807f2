"""Converting between an encoder in training and its published form, which plain transformers loads.

`AutoModel` always adds a pooling layer to a ViT, with random weights if the file has none. A published ViT therefore has a pooling layer
that is the identity: identity weights, zero bias, linear activation. During training there is none.
"""

import copy

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel

from .small_resnet import SmallResNetConfig, SmallResNetForImageClassification, SmallResNetModel

AutoConfig.register(SmallResNetConfig.model_type, SmallResNetConfig, exist_ok=True)
AutoModel.register(SmallResNetConfig, SmallResNetModel, exist_ok=True)
AutoModelForImageClassification.register(SmallResNetConfig, SmallResNetForImageClassification, exist_ok=True)
# Saving then copies the two files of their code into the folder, for loading without sslzoo.
SmallResNetConfig.register_for_auto_class("AutoConfig")
SmallResNetModel.register_for_auto_class("AutoModel")
SmallResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

_WITH_HEAD = f"{SmallResNetForImageClassification.__module__.rpartition('.')[2]}.{SmallResNetForImageClassification.__name__}"


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A newly initialised encoder, without a pooling layer if it is a ViT."""
    if isinstance(config, ViTConfig):
        return ViTModel(config, add_pooling_layer=False)
    return AutoModel.from_config(config)


def to_plain(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of the encoder on the CPU in float32, in the form that `AutoModel.from_pretrained` loads without warnings."""
    config = copy.deepcopy(encoder.config)
    if isinstance(encoder, ViTModel):
        plain = ViTModel(config)
        with torch.no_grad():
            nn.init.eye_(plain.pooler.dense.weight)
            nn.init.zeros_(plain.pooler.dense.bias)
        plain.load_state_dict({**plain.state_dict(), **encoder.state_dict()})
    else:
        if isinstance(config, SmallResNetConfig):  # saving adds the classes of the encoder and its configuration only
            config.auto_map = {"AutoModelForImageClassification": _WITH_HEAD}
        plain = type(encoder)(config)
        plain.load_state_dict(encoder.state_dict())
    return plain.eval()


def without_pooler(plain: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of an encoder in its published form, under the names that `build_encoder`'s have."""
    state = plain.state_dict()
    return {name: value for name, value in state.items() if not (isinstance(plain, ViTModel) and name.startswith("pooler."))}
