from .card import write_card
from .card_check import check_card
from .checkpoint_repository import CheckpointRepository
from .comparison import comparison_table, draw_comparison
from .entry import KNN_PROTOCOL, KNN_SETTING, Entry, Measurement
from .features_dataset import check_may_be_published, publish_features
from .importing import import_weights
from .leaderboard import Quarantined, read_entries
from .leaderboard_table import markdown_table
from .lightly_checkpoints import known_checkpoints
from .listing import ListedModel, card_models, cards_folder, hub_models
from .publishing import publish, publish_all, publish_method
from .recipe_list import catalogue
from .results_table import metric_label

__all__ = [
    "KNN_PROTOCOL", "KNN_SETTING", "CheckpointRepository", "Entry", "ListedModel", "Measurement", "Quarantined", "card_models",
    "cards_folder", "catalogue", "check_card", "check_may_be_published", "comparison_table", "draw_comparison", "hub_models",
    "import_weights", "known_checkpoints", "markdown_table", "metric_label", "publish", "publish_all", "publish_features",
    "publish_method", "read_entries", "write_card",
]  # fmt: skip
