"""The segmentation service: one model behind HTTP, for many notebooks.

``python -m service`` starts it from a checkout, ``ctai-sam2 serve`` from an
installed wheel, in which this folder is ``ctai_sam2._service``: a wheel
must not claim the name ``service`` at the top level. Hence the relative
imports here, which work under both names.
"""

import lazy_loader as _lazy  # type: ignore[import-untyped]

# Loaded when first used: a signal that comes meanwhile has to be heard already (see ``__main__``).
__getattr__, __dir__, __all__ = _lazy.attach(
    __name__, submod_attrs={"app": ["make_app"], "lifecycle": ["serve"]}
)
