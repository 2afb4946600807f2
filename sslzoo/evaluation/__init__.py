"""Evaluation of any encoder on any labelled data set; knows no method."""

from .collapse import collapse_signs, likely_collapse
from .embed import write_features
from .features import Preprocessing, extract
from .knn import KNN_PROTOCOLS, knn_accuracy, nearest
from .measure import measure

__all__ = [
    "KNN_PROTOCOLS", "Preprocessing", "collapse_signs", "extract", "knn_accuracy", "likely_collapse", "measure", "nearest",
    "write_features",
]  # fmt: skip
