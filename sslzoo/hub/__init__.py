"""The run folder on the Hub: its card and pictures, publishing, the leaderboard, and weights of others."""

from .card import write_card
from .claims import card_claims
from .importing import import_weights, known_checkpoints
from .leaderboard import (
    KNN_PROTOCOL,
    KNN_SETTING,
    Entry,
    Listed,
    Number,
    Quarantined,
    card_models,
    cards_folder,
    catalogue,
    entries,
    hub_models,
)  # fmt: skip
from .numbers import metric_label
from .publish import publish, publish_all
from .table import markdown_table

__all__ = [
    "KNN_PROTOCOL", "KNN_SETTING", "Entry", "Listed", "Number", "Quarantined", "card_claims", "card_models", "cards_folder", "catalogue",
    "entries", "hub_models", "import_weights", "known_checkpoints", "markdown_table", "metric_label", "publish", "publish_all",
    "write_card",
]  # fmt: skip
