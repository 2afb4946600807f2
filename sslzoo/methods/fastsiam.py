"""FastSiam: SimSiam with several views, each of which predicts the mean of the others, a steadier target than a single view."""

from dataclasses import replace

import torch
from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width, features
from sslzoo.errors import InputError
from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.networks import forward_views
from sslzoo.parts.siamese import SiameseConfig, projector_and_predictor
from sslzoo.views.presets import moco_views


@strict
class FastSiamConfig(SiameseConfig, MethodConfig):
    """SimSiam's network for ImageNet (arXiv:2011.10566, section 3), which the paper takes over."""

    model_type = "sslzoo-fastsiam"


class FastSiam(Method):
    config_class = FastSiamConfig
    paper = Paper(
        "FastSiam: Resource-Efficient Self-supervised Learning on a Single GPU",
        "Daniel Pototzky and others", 2022, None, doi="10.1007/978-3-031-16788-1_4",
    )  # fmt: skip
    varied_views = ("all",)

    def __init__(self, config: FastSiamConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector, self.predictor = projector_and_predictor(feature_width(self.backbone), config)
        self.post_init()

    @staticmethod
    def views(size):
        (view,) = moco_views(size).values()
        return {"all": replace(view, count=4)}

    def loss(self, views, progress):
        if len(views) < 2:
            raise InputError("view.all.count is 1: a view needs others whose mean it predicts")
        projections = forward_views(self, lambda view: self.projector(features(self.backbone, view)), views)
        predictions = forward_views(self, self.predictor, projections)
        # The sum of the other views instead of their mean: the cosine does not depend on the length of its target.
        total = torch.stack(projections).float().sum(dim=0)
        losses = [negative_cosine(prediction, total - own) for prediction, own in zip(predictions, projections, strict=True)]
        return {"loss": torch.stack(losses).mean()}
