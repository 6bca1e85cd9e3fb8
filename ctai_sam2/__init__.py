"""One-click psoas, skeletal muscle and L3 segmentation on CT with SAM2.

The main job in five lines::

    import ctai_sam2 as ct
    volume = ct.read_study("path/to/dicom")
    with ct.open_segmenter() as segmenter:
        study = ct.segment_study(volume, segmenter)
    print(ct.measure_study(study))

Names are loaded when first used, so importing the package costs next to
nothing and needs neither torch nor widgets. Research use, not diagnosis.
"""

import lazy_loader as _lazy

from ctai_sam2._moved import install as _install_moved

_install_moved()

# The names and their modules are listed once, in __init__.pyi.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
