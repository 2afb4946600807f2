"""Protocols that train a linear classifier on augmented images: on a frozen encoder, or fine-tuning the encoder with it.

They are the protocols behind the reference page's ImageNet results, named after the papers that they largely follow:

"linear-simclr-v1", "finetune-simclr-v1" (arXiv:2002.05709): the page's for ResNets. SimCLR itself uses Nesterov momentum, zero initial
    weights and batches of 4,096, and reports the last epoch.
"linear-mae-v1" (arXiv:2111.06377): the page's for ViTs. MAE itself trains with LARS. The page's LARS does not adapt parameters without
    weight decay, and the classifier has none, so that it amounts to SGD with momentum, as it is called here.
"finetune-mae-v1": as in MAE, with layer-wise learning-rate decay and drop path; the page's 81.3 was measured with both inactive.
"""

from dataclasses import dataclass

from transformers import PreTrainedModel

from sslzoo.data import without_broken
from sslzoo.views import RandAugment, RandomErasing

from .classifier_training import ClassifierTraining
from .evaluation_data import Data
from .metrics import accuracy
from .protocol import Measured, Protocol, Session


@dataclass(frozen=True)
class ClassifierProtocol(Protocol):
    """A classifier is trained on random crops of the training images, and tested on complete test images after every epoch.

    Reported are the last epoch's top-1 and top-5, and those of the best epoch of each. The best epoch is chosen on the test images, which
    is optimistic, but it is what papers and reference tables report.

    name: of the protocol.
    trains_encoder: fine-tune a copy of the encoder in training mode, so that batch norms use batch statistics and update the running
        ones. Otherwise the encoder is frozen, in evaluation mode.
    batch_norm: normalise the features by a batch norm without affine parameters before the linear layer.
    lr: base learning rate for a batch of 256, scaled linearly with the batch size. After the warm-up it decays per step by a cosine to
        final_lr times the peak.
    weight_decay: does not apply to norms, biases, tokens, position embeddings and the classifier.
    batch_size: images per step over all processes. Incomplete batches are dropped, but a smaller data set is one batch.
    precision: with "fp16" the loss is scaled. The session's accelerator must have been made with it.
    scale, ratio, interpolation: of the random resized crops, which are flipped with probability 0.5.
    mixup, cutmix: alpha of the beta distributions that the mixing ratios are drawn from; 0: not used.
    smoothing: label smoothing.
    layer_decay: the learning rate of each layer as a factor of the next layer's (BEiT, arXiv:2106.08254), None: all equal.
    drop_path: the rate of the last block (see `sslzoo.encoders.drop_path`).

    Several processes give the numbers of one up to rounding, except that on CPUs batch norms of a fine-tuned encoder only see their own
    process's images.
    """

    name: str
    trains_encoder: bool
    epochs: int
    lr: float
    tolerance: float
    batch_norm: bool = False
    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch_size: int = 256
    warmup_epochs: int = 0
    final_lr: float = 0.001
    precision: str = "fp16"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    rand_augment: RandAugment | None = None
    erasing: RandomErasing | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    layer_decay: float | None = None
    drop_path: float = 0.0

    def measure(self, encoder: PreTrainedModel, data: Data, session: Session) -> list[Measured]:
        """ "linear_top1" or "finetune_top1", and top5 from six classes on, of the last and the best epoch.

        arguments: {"of": "last epoch"}, or {"of": "best epoch", "selected_epoch": 57}, counted from 0.
        Raises `InputError` for encoders that the protocol cannot train, `TrainingError` when the loss is no longer finite.
        """
        # Without broken images all processes count the same, whether the images are resident or streamed.
        data = data._replace(train=without_broken(data.train), test=without_broken(data.test))
        history = ClassifierTraining(self, encoder, data, session).run_to_end()
        kind = "finetune" if self.trains_encoder else "linear"
        measured: list[tuple[str, dict[str, str | int], int]] = []
        for name in history[-1]:
            best = max(range(len(history)), key=lambda epoch: history[epoch][name])  # the first of several
            measured.append((name, {"of": "last epoch"}, history[-1][name]))
            measured.append((name, {"of": "best epoch", "selected_epoch": best}, history[best][name]))
        return [Measured(f"{kind}_{name}", arguments, accuracy([correct], [len(data.test)])) for name, arguments, correct in measured]


CLASSIFIER_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        ClassifierProtocol("linear-simclr-v1", trains_encoder=False, epochs=90, lr=0.1, tolerance=0.005),
        ClassifierProtocol("linear-mae-v1", trains_encoder=False, epochs=90, lr=0.1, tolerance=0.005, batch_norm=True, warmup_epochs=10),
        ClassifierProtocol("finetune-simclr-v1", trains_encoder=True, epochs=30, lr=0.05, tolerance=0.01),
        ClassifierProtocol(
            "finetune-mae-v1", trains_encoder=True, epochs=100, lr=5e-4, tolerance=0.01, optimizer="adamw", weight_decay=0.05,
            warmup_epochs=5, interpolation="bicubic", rand_augment=RandAugment(), erasing=RandomErasing(), mixup=0.8, cutmix=1.0,
            smoothing=0.1, layer_decay=0.65, drop_path=0.1,
        ),
    )
}  # fmt: skip
