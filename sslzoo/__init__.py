"""sslzoo: the Hugging Face-native zoo of self-supervised vision learning."""

from pathlib import Path

from sslzoo.method import Method, MethodConfig, read_block
from sslzoo.methods import method_class, method_name, method_names, shipped_names

__version__ = "0.1.0"


def load(name: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> Method:
    """The whole method in a run folder or Hub repository, of whatever class it is; see `Method.from_pretrained`."""
    from sslzoo.encoders import model_folder

    folder = model_folder(name, revision=revision, token=token)
    return method_class(read_block(folder)["model_type"].removeprefix("sslzoo-")).from_pretrained(folder)


def __getattr__(name: str):
    """`sslzoo.DINO`, `sslzoo.DINOConfig` and so on, from whichever file in `methods` defines them."""
    if name[0].isupper():
        for method in map(method_class, shipped_names()):
            if name == method.__name__:
                return method
            if name == method.config_class.__name__:
                return method.config_class
    raise AttributeError(f"module 'sslzoo' has no attribute '{name}'")


__all__ = ["Method", "MethodConfig", "load", "method_class", "method_name", "method_names"]
