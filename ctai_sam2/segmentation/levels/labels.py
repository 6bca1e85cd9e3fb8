"""The names of the levels and of the dense classes, shared by network, decode and training."""

from __future__ import annotations

from typing import Final

LEVEL_CLASSES: Final = ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2")
"""Classes of the level head, head to feet; the first stands for T10 and all above, the last for S2
and all below."""

TISSUE_CLASSES: Final = ("other", "body", "disc", "sacrum", "canal", "posterior")
"""Classes of the tissue head: vertebral body, disc, sacrum, spinal canal, arches and processes."""

L3: Final = LEVEL_CLASSES.index("L3")
S1: Final = LEVEL_CLASSES.index("S1")
