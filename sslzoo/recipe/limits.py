"""Which values a recipe's keys may have."""

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from sslzoo.encoders import ATTENTION, ENCODERS
from sslzoo.methods import method_names
from sslzoo.optim import CLIPS, LR_SCALINGS, OPTIMIZERS, SCHEDULES
from sslzoo.views import LARGEST

METRICS = ("knn_top1", "knn_top5", "linear_top1", "linear_top5", "finetune_top1", "finetune_top5")
NESTED = ("hyperparameters", "views", "reference")  # fields whose entries are keys of the file
PATHS = ("dataset", "init_from", "teacher")  # keys that may hold local paths
CHOICES = {
    "method": method_names(), "encoder": ENCODERS, "optimizer": OPTIMIZERS, "lr_scaling": LR_SCALINGS, "schedule": SCHEDULES,
    "clip": CLIPS, "precision": ("fp32", "bf16", "fp16"), "tracker": tuple(LOGGER_TYPE_TO_CLASS),
    "attn_implementation": ATTENTION,
}  # fmt: skip
RANGES = {
    "image_size": (1, LARGEST), "canvas": (1, 4 * LARGEST), "batch_size": (1, 2**24), "accumulate": (1, 2**24), "epochs": (1, 10**6),
    "lr": (0, 1e6), "weight_decay": (0, 1e6), "weight_decay_end": (0, 1e6), "warmup_epochs": (0, 10**6), "warmup_lr": (0, 1),
    "final_lr": (0, 1e6), "clip_norm": (1e-9, 1e9), "broken_share": (0, 1), "seed": (0, 2**32 - 1), "knn_every": (0, 10**9),
    "log_every": (1, 10**9), "checkpoint_every": (1, 10**9), "reference_k": (1, 10**6), "encoder_lr_factor": (0, 1e6),
    "layer_decay": (1e-3, 1), "patch_lr_factor": (0, 1e6), "drop_path": (0, 0.9), "encoder_frozen_epochs": (0, 10**6),
    "channels": (1, 1024), "teacher_size": (1, LARGEST),
}  # fmt: skip
