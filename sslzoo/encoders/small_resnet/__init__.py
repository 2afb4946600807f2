"""ResNet with the small-image stem. Its two flat files travel with published weights, so they import nothing of sslzoo."""

from .configuration_sslzoo_resnet import SmallResNetConfig
from .modeling_sslzoo_resnet import SmallResNetForImageClassification, SmallResNetModel

__all__ = ["SmallResNetConfig", "SmallResNetForImageClassification", "SmallResNetModel"]
