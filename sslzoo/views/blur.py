"""Gaussian blur of a whole batch, each image with its own sigma, as two batched matrix products."""

import torch
from torch import Tensor


def blur(images: Tensor, sigmas: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images float32 (n, 3, size, size) blurred by `sigmas`, (n,) in px; 0 leaves an image as it is.

    What lies beyond a border does not count: the weights of the px inside are raised to the sum 1.
    dtype: in which the images are multiplied.
    """
    places = torch.arange(images.shape[2], device=images.device)
    squares = (places - places[:, None]).square()
    # Below a hundredth of a px nothing is left of the neighbours' weights.
    weights = torch.exp(squares * (-0.5 / sigmas.clamp(min=0.01).square())[:, None, None])
    weights = (weights / weights.sum(dim=2, keepdim=True)).to(dtype)
    rows = (images.to(dtype).flatten(1, 2) @ weights.transpose(1, 2)).unflatten(1, images.shape[1:3])
    return (weights[:, None] @ rows).float()
