"""Which implementation of attention an encoder runs: transformers' own in plain torch, or torch's fused one."""

from transformers import PreTrainedModel

from sslzoo.errors import InputError, unknown

ATTENTION = ("eager", "sdpa")


def set_attention(encoder: PreTrainedModel, implementation: str) -> None:
    """Makes every block compute its attention as "eager" or "sdpa". Weights and files stay as they are, numbers may differ in rounding.

    Others of transformers' implementations are not offered: on a GPU, "sdpa" runs the flash kernels that come with torch, and kernels from
    the Hub would be somebody's code. Raises `InputError` for another name, and for an encoder that cannot.
    """
    if implementation not in ATTENTION:
        raise unknown("attn_implementation", implementation, ATTENTION)
    kind = encoder.config.model_type
    if not any(hasattr(encoder.config, key) for key in ("num_attention_heads", "num_heads")):
        raise InputError(f"attn_implementation is '{implementation}', and a '{kind}' has no attention: leave it out")
    if implementation == "sdpa" and not encoder._supports_sdpa:
        raise InputError(f"attn_implementation is 'sdpa', and transformers' '{kind}' has 'eager' attention alone: leave it out")
    encoder.set_attn_implementation(implementation)
