"""Training: one loop for every method, on Accelerate."""

from .train import train

__all__ = ["train"]
