"""SimSiam: a predictor maps the projection of one view to that of the other, which has a stop-gradient; no negatives, no teacher."""

from huggingface_hub.dataclasses import strict

from sslzoo.encoders import feature_width, features
from sslzoo.method import Method, MethodConfig
from sslzoo.optim import decay_groups
from sslzoo.paper import Paper, Reported
from sslzoo.parts.cosine import negative_cosine
from sslzoo.parts.networks import forward_views
from sslzoo.parts.siamese import SiameseConfig, projector_and_predictor
from sslzoo.views.presets import moco_views


@strict
class SimSiamConfig(SiameseConfig, MethodConfig):
    """The paper's ImageNet values (arXiv:2011.10566, section 3).

    constant_predictor_lr: the predictor's learning rate stays at its peak (section 4.2, best in the paper; not in the reference table).
    """

    model_type = "sslzoo-simsiam"

    constant_predictor_lr: bool = True


class SimSiam(Method):
    config_class = SimSiamConfig
    paper = Paper("Exploring Simple Siamese Representation Learning", "Xinlei Chen and Kaiming He", 2020, "2011.10566")
    reported = (Reported("linear_top1", 0.681, "res50", 100, 512, "facebookresearch/simsiam"),)
    views = staticmethod(moco_views)

    def __init__(self, config: SimSiamConfig):
        super().__init__(config)
        self.backbone = self.build_encoder()
        self.projector, self.predictor = projector_and_predictor(feature_width(self.backbone), config)
        self.post_init()

    def loss(self, views, progress):
        first, second = forward_views(self, lambda view: self.projector(features(self.backbone, view)), views)
        from_first, from_second = forward_views(self, self.predictor, [first, second])
        return {"loss": (negative_cosine(from_first, second) + negative_cosine(from_second, first)) / 2}

    def parameter_groups(self):
        groups = decay_groups(self, exclude=self.predictor.parameters())
        predictor = decay_groups(self.predictor)
        for group in predictor:
            group.constant_lr = self.config.constant_predictor_lr
        return [*groups, *predictor]
