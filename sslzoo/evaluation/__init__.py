"""Evaluation of any encoder on any labelled data set, independent of the methods."""

from .classes import Classes
from .collapse import collapse_metrics, collapse_warning
from .embed import features_origin, read_origin, write_features
from .evaluation_data import Data, data_facts, make_data
from .feature_maps import class_attention, pca_map
from .features import extract, load_encoder
from .knn import KNN_PROTOCOLS, knn_accuracy, nearest
from .preprocessing import Preprocessing, read_normalization
from .protocol import Protocol, Session, quiet_session
from .registry import PROTOCOLS, measure, protocol_named
from .resolution import required_resolution

__all__ = [
    "KNN_PROTOCOLS", "PROTOCOLS", "Classes", "Data", "Preprocessing", "Protocol", "Session", "class_attention", "collapse_metrics",
    "collapse_warning", "data_facts", "extract", "features_origin", "knn_accuracy", "load_encoder", "make_data", "measure",
    "nearest", "pca_map", "protocol_named", "quiet_session", "read_normalization", "read_origin", "required_resolution", "write_features",
]  # fmt: skip
