"""Evaluation of any encoder on any labelled data set; knows no method."""

from .classes import Classes
from .collapse import collapse_metrics, collapse_warning
from .embed import write_features
from .features import Preprocessing, encoder_for, extract
from .knn import KNN_PROTOCOLS, knn_accuracy, nearest
from .maps import class_attention, feature_map, pca_map
from .measure import PROTOCOLS, data_facts, make_data, measure, protocol_named
from .protocol import Data, Protocol, Session, quiet_session
from .resolution import required_resolution

__all__ = [
    "KNN_PROTOCOLS", "PROTOCOLS", "Classes", "Data", "Preprocessing", "Protocol", "Session", "class_attention", "collapse_metrics",
    "collapse_warning", "data_facts", "encoder_for", "extract", "feature_map", "knn_accuracy", "make_data", "measure", "nearest",
    "pca_map", "protocol_named", "quiet_session", "required_resolution", "write_features",
]  # fmt: skip
