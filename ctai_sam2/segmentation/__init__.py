"""One click: prompts from anatomy, masks from the model, limits from HU."""

import lazy_loader as _lazy

# The names and their modules are listed once, in __init__.pyi.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
