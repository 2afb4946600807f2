"""sslzoo: the Hugging Face-native zoo of self-supervised vision learning.

Names are imported when they are first used, so that `import sslzoo` takes no time; `__init__.pyi` says from where.
"""

import lazy_loader

__version__ = "0.1.0"

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str):
    """What `__init__.pyi` lists, and `sslzoo.DINO`, `sslzoo.DINOConfig` and so on, from whichever file in `methods` defines them."""
    if name in __all__ or not name[0].isupper():
        return _attribute(name)
    from sslzoo.methods import method_class, shipped_names

    for method in map(method_class, shipped_names()):
        if name == method.__name__:
            return method
        if name == method.config_class.__name__:
            return method.config_class
    raise AttributeError(f"module 'sslzoo' has no attribute '{name}'")
