"""From a segmented study to what stays: one table row, masks and a picture on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctai_sam2.core.definitions import TissueDefinitions
from ctai_sam2.core.metrics import measure_slice
from ctai_sam2.errors import InputError
from ctai_sam2.io import read_slice, read_study
from ctai_sam2.types import CTSlice, Mask

if TYPE_CHECKING:
    from ctai_sam2.oneclick import StructureResult, StudyResult
