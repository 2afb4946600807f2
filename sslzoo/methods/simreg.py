"""SimReg: a student's features, through an MLP that is only there for training, predict a frozen teacher's features of the same crop."""

from huggingface_hub.dataclasses import strict
from torch import nn

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.distillation import DistillationConfig, DistillationMixin
from sslzoo.parts.networks import mlp
from sslzoo.views import View


@strict
class SimRegConfig(DistillationConfig, MethodConfig):
    """The head is that of the released code (UCDvision/simreg): four layers whose widths follow from the student's and the teacher's."""

    model_type = "sslzoo-simreg"


class SimReg(DistillationMixin, Method):
    config_class = SimRegConfig
    paper = Paper(
        "SimReg: Regression as a Simple Yet Effective Tool for Self-supervised Knowledge Distillation",
        "K L Navaneet and others", 2021, "2201.05131",
    )  # fmt: skip

    def __init__(self, config: SimRegConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        width = feature_width(self.backbone)
        self.predictor = nn.Sequential(mlp((width, 2 * width, width)), mlp((width, 2 * width, config.teacher_dim)))
        self.post_init()

    @staticmethod
    def views(size):
        """One crop without changes of its colours, which the teacher sees too: the paper's best."""
        return {"single": View(size, scale=(0.2, 1.0))}

    def loss(self, views, progress):
        (view,) = views
        targets = self.teacher_features(view)
        # The squared distance of two vectors of length 1.
        return {"loss": 2 + 2 * negative_cosine(self.predictor(features(self.backbone, view)), targets)}
