"""Random numbers that are a function of what they are for, not of when they are drawn."""

import hashlib

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_STEP = 0x9E3779B1


def hash_words(*key: int) -> tuple[int, int, int]:
    """Three 32-bit words that stand for the key: integers of any size, such as seed, epoch and view."""
    digest = hashlib.blake2b(repr([int(part) for part in key]).encode(), digest_size=12).digest()
    return tuple(int.from_bytes(digest[start : start + 4], "little") for start in (0, 4, 8))


def uniform(samples: Tensor, columns: int, words: Tensor) -> Tensor:
    """Numbers in [0, 1), float32 (n, columns) on the samples' device: a pure function of the words, the sample and the column.

    samples: int64 (n,), row numbers in the data set. So a sample meets the same numbers in any batch, on any device, in any process.
    words: int64 (3,), of `hash_words`; those of several keys, (keys, 3), give (n, keys, columns).
    """
    first, second, third = words.to(samples.device, non_blocking=True).unbind(-1)
    samples = samples.view(-1, *[1] * first.ndim)
    rows = _scramble(_scramble((samples & _WORD) ^ first) ^ ((samples >> 32) & _WORD) ^ second)
    # An odd multiplier: its multiples modulo 2**32 are all different.
    steps = torch.arange(0, columns * _STEP, _STEP, device=samples.device) & _WORD
    numbers = _scramble(_scramble(rows.unsqueeze(-1) ^ steps) ^ third.unsqueeze(-1))
    return (numbers >> 8).to(torch.float32) * 2.0**-24


def _scramble(words: Tensor) -> Tensor:
    """A permutation of the 32-bit words in which every bit of the result depends on every bit given: shifts and multiplications, twice."""
    # The last factor of each round is written as its value minus 2**32: the same product modulo 2**32, which so fits into int64.
    for down, factor, middle, large, last in ((16, 0x7FEB352D, 15, 0x846CA68B, 16), (16, 0x21F0AAAD, 15, 0xD35A2D97, 15)):
        words = ((words ^ (words >> down)) * factor) & _WORD
        words = ((words ^ (words >> middle)) * (large - 2**32)) & _WORD
        words = words ^ (words >> last)
    return words
