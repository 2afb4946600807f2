from .method import Method, MethodConfig
from .methods import load, method_class, method_name, method_names

__version__: str

__all__ = ["Method", "MethodConfig", "load", "method_class", "method_name", "method_names"]

def __getattr__(name: str) -> type: ...
