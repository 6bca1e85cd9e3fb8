from .anchors import VolumeAnchor as VolumeAnchor
from .kept import KeepsSlices as KeepsSlices
from .request import EVERY_MM as EVERY_MM
from .request import FollowWith as FollowWith
from .request import correct_volume as correct_volume
from .request import segment_volume as segment_volume
from .result import SliceMask as SliceMask
from .result import VolumeResult as VolumeResult
