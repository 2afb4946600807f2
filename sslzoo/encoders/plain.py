"""Between an encoder as it is trained and as plain transformers expects it on disk.

`AutoModel` always gives a ViT a pooling layer; a file without one would be loaded with random weights there. So the published ViT has
a pooling layer that does nothing: identity weights, zero bias, linear activation. In training it is left out.
"""

import copy

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel

from .small_resnet import SmallResNetConfig, SmallResNetForImageClassification, SmallResNetModel

AutoConfig.register(SmallResNetConfig.model_type, SmallResNetConfig, exist_ok=True)
AutoModel.register(SmallResNetConfig, SmallResNetModel, exist_ok=True)
AutoModelForImageClassification.register(SmallResNetConfig, SmallResNetForImageClassification, exist_ok=True)
# Saving then copies their two files into the folder, for those who load it without sslzoo.
SmallResNetConfig.register_for_auto_class("AutoConfig")
SmallResNetModel.register_for_auto_class("AutoModel")
SmallResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

_WITH_HEAD = f"{SmallResNetForImageClassification.__module__.rpartition('.')[2]}.{SmallResNetForImageClassification.__name__}"


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A freshly initialised encoder, without the pooling layer of ViTs."""
    if isinstance(config, ViTConfig):
        return ViTModel(config, add_pooling_layer=False)
    return AutoModel.from_config(config)


def to_plain(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of the encoder on the CPU in float32, in the form that `AutoModel.from_pretrained` loads without a word."""
    config = copy.deepcopy(encoder.config)
    if isinstance(encoder, ViTModel):
        plain = ViTModel(config)
        with torch.no_grad():
            nn.init.eye_(plain.pooler.dense.weight)
            nn.init.zeros_(plain.pooler.dense.bias)
        plain.load_state_dict({**plain.state_dict(), **encoder.state_dict()})
    else:
        if isinstance(config, SmallResNetConfig):  # saving adds the encoder and its configuration, not the class with a head
            config.auto_map = {"AutoModelForImageClassification": _WITH_HEAD}
        plain = type(encoder)(config)
        plain.load_state_dict(encoder.state_dict())
    return plain.eval()


def without_pooler(plain: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a plain encoder, named as those of `build_encoder`'s."""
    state = plain.state_dict()
    return {name: value for name, value in state.items() if not (isinstance(plain, ViTModel) and name.startswith("pooler."))}
