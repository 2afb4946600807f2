"""Evaluation of any encoder on any labelled data set; knows no method."""

from .embed import write_features
from .features import Preprocessing, extract
from .knn import KNN_PROTOCOLS, knn_accuracy, nearest
from .measure import measure

__all__ = ["KNN_PROTOCOLS", "Preprocessing", "extract", "knn_accuracy", "measure", "nearest", "write_features"]
