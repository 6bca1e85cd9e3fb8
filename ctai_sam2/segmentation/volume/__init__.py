"""From one slice to a range of levels: masks on every slice, gates between neighbours, volumes in cm³."""

from ctai_sam2.segmentation.volume.anchors import VolumeAnchor
from ctai_sam2.segmentation.volume.engine import correct_volume, segment_volume
from ctai_sam2.segmentation.volume.result import VolumeResult

__all__ = ["VolumeAnchor", "VolumeResult", "correct_volume", "segment_volume"]
