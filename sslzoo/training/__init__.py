"""Training: the one loop, on Accelerate."""

from .start import train

__all__ = ["train"]
