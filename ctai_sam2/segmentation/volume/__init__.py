"""From one slice to a range of levels: masks on every slice, gates between neighbours, volumes in cm³."""

from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.kept import KeepsSlices
from ctai_sam2.segmentation.volume.request import EVERY_MM, FollowWith, correct_volume, segment_volume
from ctai_sam2.segmentation.volume.result import SliceMask, VolumeResult

__all__ = [
    "EVERY_MM",
    "FollowWith",
    "KeepsSlices",
    "SliceMask",
    "VolumeAnchor",
    "VolumeResult",
    "correct_volume",
    "segment_volume",
]
