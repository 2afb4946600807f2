"""Layer-wise learning-rate decay for fine-tuning transformers (BEiT, arXiv:2106.08254; MAE, arXiv:2111.06377)."""

from transformers import PreTrainedModel

from sslzoo.encoders import blocks, depths
from sslzoo.optim import UNDECAYED, ParameterGroup


def layer_groups(encoder: PreTrainedModel, decay: float) -> list[ParameterGroup]:
    """The trainable parameters grouped by depth; each layer's learning rate is `decay` times the next layer's, the last norm's is 1.

    Norms, biases, tokens and position embeddings are exempt from weight decay. Raises `InputError` for encoders without blocks.
    """
    depth, last = depths(encoder), len(blocks(encoder)) + 1
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            has_decay = parameter.ndim > 1 and not UNDECAYED.search(name)
            new = ParameterGroup([], decay=has_decay, lr_factor=decay ** (last - depth[name]))
            groups.setdefault((depth[name], has_decay), new).parameters.append(parameter)
    return list(groups.values())
