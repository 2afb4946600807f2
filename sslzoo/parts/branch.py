"""One branch of a siamese network."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from sslzoo.encoders import features


class Branch(nn.Module):
    """A backbone with a projector behind it: images (n, 3, height, width) to embeddings (n, width)."""

    def __init__(self, backbone: PreTrainedModel, projector: nn.Module):
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projector(features(self.backbone, pixels))
