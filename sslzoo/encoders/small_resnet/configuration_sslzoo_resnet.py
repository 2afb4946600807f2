from huggingface_hub.dataclasses import strict
from transformers import ResNetConfig


@strict
class SmallResNetConfig(ResNetConfig):
    """A ResNet for small images: `ResNetConfig` with another `model_type`, since the stem is another one.

    stem_relu: whether a ReLU stands behind the stem's norm. The nets of the reference tables lack it, most others have it.
    """

    model_type = "sslzoo_resnet"

    stem_relu: bool = False
