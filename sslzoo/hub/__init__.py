"""The run folder on the Hub: its card and pictures, and publishing."""

from .card import write_card
from .leaderboard import catalogue
from .publish import publish

__all__ = ["catalogue", "publish", "write_card"]
