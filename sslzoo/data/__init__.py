"""Data sets by Hub id or local path as batches of images on the device.

Names are imported when they are first used; `__init__.pyi` says from where.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
