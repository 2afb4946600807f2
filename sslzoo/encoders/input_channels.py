"""The same encoder for images of another number of channels."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from sslzoo.errors import InputError

CHANNELS = 3  # of the images that almost all published weights were trained on


def fit_channels(encoder: PreTrainedModel, channels: int) -> PreTrainedModel:
    """The same encoder for images of so many channels: a copy whose first convolution, of the patches or the stem, is adapted.

    Each new channel gets the sum of the weights over the old three, divided by the number of new ones. So an image whose channels are all
    equal gives the features that it gave before, and one channel gets the sum, as in timm.

    An encoder that takes this number already is returned as it is. Raises `InputError` for one of another number than three.
    """
    found = encoder.config.num_channels
    if found == channels:
        return encoder
    if found != CHANNELS:
        raise InputError(f"the weights take images of {found} channels, and channels is {channels}: take channels={found}")
    fitted = copy.deepcopy(encoder)
    first = next(module for module in fitted.modules() if isinstance(module, nn.Conv2d))  # declared in the order of the forward pass
    with torch.no_grad():
        mean = first.weight.sum(dim=1, keepdim=True) / channels
    first.weight = nn.Parameter(mean.repeat(1, channels, 1, 1), requires_grad=first.weight.requires_grad)
    first.in_channels = fitted.config.num_channels = channels
    for module in fitted.modules():
        if getattr(module, "num_channels", channels) == CHANNELS:  # which the embeddings compare with those of the images
            module.num_channels = channels
    return fitted
