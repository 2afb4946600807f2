"""A tiny teacher with random weights, of another family, size and normalisation than the students, for methods that learn from one."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from sslzoo import method_class
from sslzoo.parts.distillation import DistillationMixin, FrozenTeacher

SIZE = 12  # px
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def tiny_encoder(width: int = 32, seed: int = 0) -> Dinov2Model:
    """In evaluation mode, its features far from one another."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
        encoder = Dinov2Model(Dinov2Config(image_size=SIZE, patch_size=6, **shape)).eval()
        for parameter in encoder.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return encoder


def give_teacher(method):
    """The method, with a teacher if it learns from one."""
    if isinstance(method, DistillationMixin):
        method.set_teacher(FrozenTeacher(tiny_encoder(method.config.teacher_dim), mean=MEAN, std=STD, size=SIZE))
    return method


@functools.cache
def teacher_folder() -> str:
    """The teacher's folder, as transformers writes it; it goes when the tests end."""
    parent = Path(tempfile.mkdtemp(prefix="teacher-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = parent / "tiny-teacher"
    tiny_encoder().save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return str(folder)


def teacher_changes(method: str) -> dict[str, Any]:
    """The change that a recipe of this method needs to be trained: its teacher, if it learns from one."""
    return {"teacher": teacher_folder()} if issubclass(method_class(method), DistillationMixin) else {}
