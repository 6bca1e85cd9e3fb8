"""The segmentation service: one model behind HTTP, for many notebooks.

``python -m service`` starts it from a checkout, ``ctai-sam2 serve`` from an
installed wheel, in which this folder lies as ``ctai_sam2._service``: a wheel
must not claim the name ``service`` at the top level. Hence the relative
imports here, which work under both names.
"""

from __future__ import annotations

from .app import make_app
from .lifecycle import serve

__all__ = ["make_app", "serve"]
