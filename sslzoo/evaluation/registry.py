"""All protocols by name, and measuring an encoder by one of them."""

from typing import Any

from transformers import PreTrainedModel

from sslzoo.errors import unknown
from sslzoo.processes import explain_lost_process

from .classifier_protocol import CLASSIFIER_PROTOCOLS
from .evaluation_data import Data
from .knn import KNN_PROTOCOLS
from .linear_features import FEATURE_PROTOCOLS
from .protocol import Protocol, Session

PROTOCOLS: dict[str, Protocol] = {**KNN_PROTOCOLS, **FEATURE_PROTOCOLS, **CLASSIFIER_PROTOCOLS}


def protocol_named(name: str) -> Protocol:
    """The protocol of this name. Raises `InputError`."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def measure(encoder: PreTrainedModel, data: Data, protocol: str, session: Session) -> list[dict[str, Any]]:
    """All numbers of a protocol: {"protocol", "dataset", "split", "metric", "arguments", "value"}; values are fractions.

    Called by all processes; an error in one of them ends all. Raises `InputError`.
    """
    with explain_lost_process():
        measured = protocol_named(protocol).measure(encoder, data, session)
    return [{"protocol": protocol, "dataset": data.test.source, "split": data.test.split, **number._asdict()} for number in measured]
