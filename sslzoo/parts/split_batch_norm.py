"""Batch norms that split a batch into groups as several devices would (the small-scale MoCo of arXiv:1911.05722's released code)."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sslzoo.errors import InputError


class SplitBatchNorm(_NormBase):
    """In training, image i is normalised with the images of group i modulo `splits` alone; weights are shared.

    Running statistics are means over the groups, so parameters, buffers and evaluation are those of the batch norm that it replaces.
    It is not a `_BatchNorm`, so that `convert_sync_batchnorm` leaves it alone.
    """

    def __init__(self, norm: nn.BatchNorm2d, splits: int):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.splits = splits

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, False, self.momentum, self.eps)
        count, channels, *size = maps.shape
        if count % self.splits:
            raise InputError(f"batch_norm_splits: a batch of {count} images cannot be divided into {self.splits} groups")
        # Groups become channels: image, group and channel are row-major already, so a reshape is enough.
        grouped = maps.reshape(count // self.splits, self.splits * channels, *size)
        mean, variance, weight, bias = (
            values.repeat(self.splits) for values in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        out = F.batch_norm(grouped, mean, variance, weight, bias, True, self.momentum, self.eps)
        self.running_mean.copy_(mean.view(self.splits, channels).mean(dim=0))
        self.running_var.copy_(variance.view(self.splits, channels).mean(dim=0))
        self.num_batches_tracked.add_(1)
        return out.reshape(maps.shape)


def split_batch_norms(network: nn.Module, splits: int) -> None:
    """Replaces every two-dimensional batch norm of the network by a `SplitBatchNorm`."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, SplitBatchNorm(child, splits))
