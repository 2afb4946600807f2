"""PMSN: MSN with a power-law prior on how often each prototype is used, instead of a uniform one."""

import torch
from huggingface_hub.dataclasses import strict

from sslzoo.method import Method, MethodConfig
from sslzoo.paper import Paper
from sslzoo.parts.hyperparameters import share, weight
from sslzoo.parts.masked_siamese import MaskedSiameseConfig, MaskedSiameseMixin
from sslzoo.parts.usage import usage_entropy


@strict
class PMSNConfig(MaskedSiameseConfig, MethodConfig):
    """The paper's values (arXiv:2210.07277) on those of MSN's code for ViT-S/16 (arXiv:2204.07141).

    prior_exponent: prototype k (1, 2, ...) is expected as often as k to the power of minus this. prior_weight: of that term.
    """

    model_type = "sslzoo-pmsn"

    prior_exponent: float | int = weight(0.25)
    prior_weight: float | int = weight(1.0)
    teacher_momentum: float | int = share(0.996)
    teacher_momentum_end: float | int = share(1.0)


class PMSN(MaskedSiameseMixin, Method):
    """Prototypes are trained, without weight decay, as in MSN's paper and code; lightly's benchmark never trains them."""

    config_class = PMSNConfig
    paper = Paper("The Hidden Uniform Cluster Prior in Self-Supervised Learning", "Mahmoud Assran and others", 2022, "2210.07277")

    def loss(self, views, progress):
        cross_entropy, mean_assignment = self.predict_assignments(views, progress.draw)
        # The divergence of the mean assignment from the prior, as in the paper; lightly takes that of the prior from the mean.
        ranks = torch.arange(1, len(mean_assignment) + 1, dtype=mean_assignment.dtype, device=mean_assignment.device)
        log_prior = (-self.config.prior_exponent * ranks.log()).log_softmax(dim=0)
        divergence = (mean_assignment * (mean_assignment.log() - log_prior)).sum()
        return {"loss": cross_entropy + self.config.prior_weight * divergence, "usage_entropy": usage_entropy(mean_assignment[None])}
