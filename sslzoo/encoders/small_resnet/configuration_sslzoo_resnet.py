from transformers import ResNetConfig


class SmallResNetConfig(ResNetConfig):
    """A ResNet for small images: `ResNetConfig` with another `model_type`, since the stem is another one."""

    model_type = "sslzoo_resnet"
