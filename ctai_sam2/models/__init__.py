"""Segmenters: a slice and a prompt go in, candidate masks come out.

Importing this loads neither torch nor sam2; `open_segmenter` builds what the
settings specify, and the model is loaded with the first prediction.
"""

import lazy_loader as _lazy

# The names and their modules are listed once, in __init__.pyi.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
