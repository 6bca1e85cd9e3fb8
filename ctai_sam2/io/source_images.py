"""The DICOM images that masks were drawn on, as they are stored: what a DICOM export refers to."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import DicomError, InputError
from ctai_sam2.files.folders import require_file
from ctai_sam2.geometry import affine_from_dicom
from ctai_sam2.io.dicom_groups import SAME_PLACE_MM, projections
from ctai_sam2.io.dicom_headers import CT_IMAGE, FrameHeader, damaged, looks_like_dicom
from ctai_sam2.io.dicom_series import Series
from ctai_sam2.io.dicom_text import shown_maker, valid_uid
from ctai_sam2.io.dicom_values import value_of
from ctai_sam2.io.dicom_volume import StackPlace, place_stack
from ctai_sam2.io.grids import Grid, grid_of, mask_to_canonical, plane_from_canonical, put
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.io.study import find_series
from ctai_sam2.types import CTSlice, CTVolume, Mask

STUDY_KEYWORDS = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "SOPClassUID",
    "SOPInstanceUID",
)
"""What of a patient and a study an export carries over; nothing else is."""

_IDENTITY_KEYWORDS = (*STUDY_KEYWORDS, "SeriesInstanceUID")
_GEOMETRY_KEYWORDS = (
    "ImageType",
    "Modality",
    "Manufacturer",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "LossyImageCompression",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_TEXT_KEYWORDS = (
    *("PatientName", "PatientID", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    "PositionReferenceIndicator",
)
_UID_KEYWORDS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("SOPClassUID", "SOPInstanceUID"),
)
_EMPTIED_KEYWORDS = (
    "PatientBirthDate",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImages:
    """One series' images in order along their normal, and where they lie.

    Parameters
    ----------
    frames : tuple of FrameHeader
        Sorted; repeats left out.
    place : StackPlace
        Where the stack lies, as stored and in canonical order.
    """

    frames: tuple[FrameHeader, ...]
    place: StackPlace

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID, as in the files."""
        return self.frames[0].series_uid

    @property
    def is_multiframe(self) -> bool:
        """True where files hold several images."""
        return len({frame.path for frame in self.frames}) < len(self.frames)

    @property
    def step_mm(self) -> float:
        """Usual distance between neighbouring images along their normal; the thickness of a single one."""
        normal = np.cross(self.place.stored[:3, 0], self.place.stored[:3, 1])
        return abs(float(self.place.stored[:3, 2] @ normal) / float(np.linalg.norm(normal)))

    @property
    def frame_of_reference_uid(self) -> str:
        """FrameOfReferenceUID, as in the files; empty where they state none."""
        return next((f.keys.frame_of_reference_uid for f in self.frames if f.keys.frame_of_reference_uid), "")

    def require_referenced(
        self, series_uids: Collection[str], frame_uids: Collection[str], name: str
    ) -> None:
        """Check that an object refers to this series or, where it names none, to its frame of reference.

        Parameters
        ----------
        series_uids, frame_uids : collection of str
            Series and frames of reference that the object names.
        name : str
            How messages call it.

        Raises
        ------
        InputError
            If it names others only.
        """
        if series_uids and self.series_uid not in series_uids:
            raise InputError(
                f"{name} was drawn on another series",
                received=f"series {', '.join(sorted(series_uids))[:200]}",
                hint="Give that series; if both share one grid, import without source= (--any-series).",
            )
        own = self.frame_of_reference_uid
        if not series_uids and own and frame_uids and own not in frame_uids:
            # One position is another place of the patient in another scan, though the grids be the same.
            raise InputError(
                f"{name} was drawn in another frame of reference, that of another scan",
                hint="Give the series it was drawn on; if the scans are registered, import without source= "
                "(--any-series).",
            )

    def grid(self) -> Grid:
        """Grid of the volume that `read_study` makes of these images."""
        shape = self.place.shape_zyx
        volume = CTVolume(
            hu_zyx=np.broadcast_to(np.int16(0), shape),
            affine=self.place.canonical,
            slice_positions_mm=self.place.slice_positions_mm,
        )
        return grid_of(volume)

    def stored_masks(self, masks: Mapping[str, ArrayLike], of: CTSlice | CTVolume) -> dict[str, Mask]:
        """Put masks drawn on a slice or volume onto the images as stored.

        Parameters
        ----------
        masks : mapping of str to array_like, shape (H, W) or (D, H, W)
            By structure.
        of : CTSlice or CTVolume
            What they were drawn on.

        Returns
        -------
        dict of str to ndarray of bool, shape (N, rows, columns)
            For each structure, a mask on each of the ``frames``.

        Raises
        ------
        InputError
            If a mask has another shape than what it was drawn on.
        GeometryError
            If these are not the images it was drawn on.
        """
        target, block = self.grid(), grid_of(of)
        height, width = self.frames[0].shape_hw
        stored = {}
        for name, mask in masks.items():
            canonical = np.zeros(target.shape_zyx, dtype=np.bool_)
            put(canonical, target, mask_to_canonical(mask, of, name=f"the mask {name}"), block, what=name)
            stored[name] = plane_from_canonical(
                canonical, (len(self.frames), height, width), self.place.stored
            )
        return stored

    def affine_of_frame(self, index: int) -> NDArray[np.float64]:
        """Affine of one stored image, (x, y, 0, 1) to LPS mm."""
        frame = self.frames[index]
        if frame.orientation is None or frame.position_mm is None or frame.spacing_mm is None:
            raise DicomError("an image lacks orientation, position or spacing")
        return affine_from_dicom(frame.orientation, frame.position_mm, frame.spacing_mm)


def find_source_images(path: str | os.PathLike[str], *, series_uid: str | None = None) -> SourceImages:
    """Read the headers of the DICOM series that `read_study` or `read_slice` would read from there.

    Parameters
    ----------
    path : path-like
        A DICOM folder or file.
    series_uid : str, optional
        Which series of a folder.

    Raises
    ------
    InputError
        If there is nothing, or nothing but NIfTI or pictures, or several series fit.
    DicomError
        If the images are damaged, are no CT, or carry no identity to refer to.
    GeometryError
        If their place in the patient is unknown.
    """
    path = Path(path)
    if not path.is_dir() and path.name.lower().endswith((".nii", ".nii.gz", ".png", ".jpg", ".jpeg")):
        raise InputError(
            f"{path.name} is not DICOM, and a DICOM export refers to the images it was drawn on",
            hint="Give the DICOM folder, or export to NIfTI, COCO or PNG.",
        )
    series = find_series(path, series_uid=series_uid)
    if series.info.refusal is not None:
        raise DicomError(f"the series cannot be used: {series.info.refusal}", hint="Give CT images in HU.")
    frames = _sorted_without_repeats(series)
    if not all(frame.series_uid and frame.instance_uid for frame in frames):
        raise DicomError(
            "the images carry no UIDs, so nothing can refer to them",
            hint="Export them again from the PACS, or export the masks to NIfTI.",
        )
    place, _ = place_stack(frames)
    return SourceImages(frames=frames, place=place)


def read_source_dataset(frame: FrameHeader) -> Any:
    """Parse what an object derived from an image repeats of it: patient, study, references, geometry.

    Nothing else of the header is looked at, so nothing else can get into an export.

    Parameters
    ----------
    frame : FrameHeader
        The image.

    Returns
    -------
    pydicom.FileDataset

    Raises
    ------
    DicomError
        If it cannot be parsed or states no study or frame of reference.
    """
    from pydicom import dcmread

    try:
        with quiet("pydicom"), frame.path.open("rb") as file:
            dataset = dcmread(
                file,
                stop_before_pixels=True,
                force=True,
                specific_tags=[*_IDENTITY_KEYWORDS, *_GEOMETRY_KEYWORDS],
            )
            uids = {keyword: dataset.get(keyword) for keyword in _UID_KEYWORDS}
            maker = shown_maker(str(dataset.get("Manufacturer") or ""))
            sex = str(dataset.get("PatientSex") or "").strip().upper()
    except Exception as error:  # pydicom raises whatever its parser stumbles over
        raise damaged(frame.path, f"its header cannot be parsed ({type(error).__name__})") from error
    if any(uid and not valid_uid(uid) for uid in uids.values()):
        # A damaged element may hold what stood behind it; nothing could refer to it anyway.
        raise damaged(frame.path, "one of its UIDs is none")
    if not (uids["FrameOfReferenceUID"] and uids["StudyInstanceUID"]):
        raise DicomError(
            f"{frame.path.name} states no study or no frame of reference, so nothing can refer to it",
            hint="Export the images again from the PACS, or export the masks to NIfTI.",
        )
    _to_unicode(dataset)
    dataset.Manufacturer = maker or ""
    dataset.PatientSex = sex if sex in ("M", "F", "O") else ""
    if "SOPClassUID" not in dataset:
        dataset.SOPClassUID = dataset.file_meta.get("MediaStorageSOPClassUID", CT_IMAGE)
    for keyword in ("PatientName", "PatientID", *_EMPTIED_KEYWORDS):
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


UNICODE = "ISO_IR 192"
"""UTF-8 (PS3.3 C.12.1.1.2): what objects derived from the images are written in."""


def _to_unicode(dataset: Any) -> None:
    """Decode text by the images' own character set, so that it can be written in UTF-8.

    A derived object holds labels and pseudonyms in any script next to the images' own text.
    """
    try:
        with quiet("pydicom"):
            dataset.decode()
    except Exception:  # pydicom raises many kinds for text that its character set cannot hold
        for keyword in _TEXT_KEYWORDS:
            # What cannot be read cannot be repeated; the UIDs still refer to the images.
            if keyword in dataset:
                setattr(dataset, keyword, "")
    dataset.SpecificCharacterSet = UNICODE


def anonymise(dataset: Any, pseudonym: str | None) -> None:
    """Put a pseudonym for a patient's name and ID and empty dates and numbers; None changes nothing.

    Raises
    ------
    InputError
        If the pseudonym cannot stand in a DICOM element.
    """
    if pseudonym is None:
        return
    if not 1 <= len(pseudonym) <= 64 or any(c in "\\^=" or not c.isprintable() for c in pseudonym):
        raise InputError("a pseudonym is 1 to 64 plain characters", hint="For example SUBJECT-017.")
    dataset.PatientName = dataset.PatientID = pseudonym
    for keyword in _EMPTIED_KEYWORDS:
        setattr(dataset, keyword, "")


def read_derived(path: Path, classes: Collection[str], what: str, *, only_class: bool = False) -> Any:
    """Parse a DICOM object that is no image, such as a SEG.

    Parameters
    ----------
    path : Path
        The file.
    classes : collection of str
        SOP classes it may have.
    what : str
        How messages call them.
    only_class : bool
        Whether to look at its class alone.

    Raises
    ------
    InputError
        If the file cannot be opened.
    DicomError
        If it is damaged or of another class.
    """
    from pydicom import dcmread

    require_file(path)
    if not looks_like_dicom(path):
        raise DicomError(f"{path.name} is not a DICOM file", hint=f"Give {what}.")
    try:
        with quiet("pydicom"):
            tags = ["SOPClassUID", "Modality"] if only_class else None
            dataset = dcmread(path, force=True, specific_tags=tags)
            found = str(value_of(dataset, "SOPClassUID") or "")
            modality = str(value_of(dataset, "Modality") or "unknown")
    except Exception as error:  # pydicom raises whatever its parser stumbles over
        raise damaged(path, f"it cannot be parsed ({type(error).__name__})") from error
    if found not in classes:
        raise DicomError(
            f"{path.name} is not {what}", received=f"modality {modality[:16]}", hint=f"Give {what}."
        )
    return dataset


def missing_extra(what: str, package: str) -> InputError:
    """Make the error for a format whose library is not installed."""
    return InputError(
        f"{what} needs the package {package}, which is not installed",
        hint="Install it with: pip install 'ctai-sam2[export]'",
    )


def _sorted_without_repeats(series: Series) -> tuple[FrameHeader, ...]:
    positions = projections(series.frames)
    order = np.argsort(positions, kind="stable")
    kept: list[int] = []
    for index in order:
        if not kept or positions[index] - positions[kept[-1]] > SAME_PLACE_MM:
            kept.append(int(index))
    return tuple(series.frames[i] for i in kept)
