"""Finished slices and anchors of a volume on disk, from which an interrupted run continues."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.image.masks import mask_to_rle, rle_to_mask
from ctai_sam2.segmentation.volume import SliceMask, VolumeAnchor
from ctai_sam2.structures import Structure

_log = logging.getLogger(__name__)


class SliceFolder:
    """Keeps finished slices and anchors as files, one a slice, so that an interrupted run can continue.

    A file holds outlines as run lengths and nothing of the patient. One that is damaged is made again.

    Parameters
    ----------
    folder : path-like
        Made with the first file.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def read(self, axial_index: int, key: str) -> dict[Structure, SliceMask] | None:
        """Return what was kept of a slice under this key; None where nothing was, or it cannot be read."""
        content = self._content(self._path(axial_index), key)
        if content is None:
            return None
        try:
            return {
                name: SliceMask(
                    corner_yx=(int(one["corner"][0]), int(one["corner"][1])),
                    crop=_crop_of(one),
                    source="automatic",
                    confidence=one["confidence"],
                    predicted_overlap=one["predicted_overlap"],
                )
                for name, one in content.items()
            }
        except (KeyError, TypeError, ValueError, IndexError, InputError):
            _log.info("a kept slice is damaged and is segmented again")
            return None

    def write(self, axial_index: int, key: str, found: Mapping[Structure, SliceMask]) -> None:
        """Keep a slice.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        content = {
            name: {
                "corner": one.corner_yx,
                "confidence": one.confidence,
                "predicted_overlap": one.predicted_overlap,
                **_outline_of(one.crop),
            }
            for name, one in found.items()
        }
        self._keep(self._path(axial_index), key, content)

    def read_anchors(self, volume_key: str) -> list[VolumeAnchor]:
        """Return the anchors kept for a volume; none where they are of another one.

        Raises
        ------
        InputError
            If the file is damaged: what a reader drew cannot be made again.
        """
        path = self._folder / "anchors.zip"
        if not path.exists():
            return []
        try:
            kept_for, content = _unpacked(path)
            anchors = [
                VolumeAnchor(
                    structure=one["structure"], axial_index=int(one["axial_index"]), mask=_crop_of(one)
                )
                for one in content
            ]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, InputError) as error:
            raise InputError(
                "anchors.zip, which holds what a reader drew, is damaged",
                received=type(error).__name__,
                hint="Restore it from a backup, or delete it to continue without it.",
            ) from error
        return anchors if kept_for == volume_key else []

    def write_anchors(self, volume_key: str, anchors: Sequence[VolumeAnchor]) -> None:
        """Keep the anchors of a volume, in place of those kept before.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        content = [
            {"structure": one.structure, "axial_index": one.axial_index, **_outline_of(one.mask)}
            for one in anchors
        ]
        self._keep(self._folder / "anchors.zip", volume_key, content)

    def _path(self, axial_index: int) -> Path:
        return self._folder / f"{axial_index:05d}.zip"

    def _content(self, path: Path, key: str) -> Any:
        try:
            kept_for, content = _unpacked(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            _log.info("a kept slice is damaged and is segmented again")
            return None
        return content if kept_for == key else None

    @staticmethod
    def _keep(path: Path, key: str, content: Any) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("content.json", json.dumps({"key": key, "content": content}))
        write_bytes(path, buffer.getvalue())


def _unpacked(path: Path) -> tuple[str, Any]:
    with zipfile.ZipFile(path) as archive:
        content = parse_json(archive.read("content.json"))
    return content["key"], content["content"]


def _outline_of(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    return {"shape": mask.shape, "runs": mask_to_rle(mask)["counts"] if mask.size else []}


def _crop_of(one: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    height, width = one["shape"]
    if not height * width:
        return np.zeros((height, width), np.bool_)
    return rle_to_mask({"size": [height, width], "counts": one["runs"]})
