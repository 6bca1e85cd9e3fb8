"""Masks as DICOM Segmentation objects (SEG), written and read.

A SEG refers to the images it was drawn on and lies on their grid, so a viewer
shows it in place. Writing is by highdicom (the ``export`` extra); reading
follows the standard (PS3.3 C.8.20) and takes binary, fractional and label-map
segmentations of other programs too.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, DicomError, GeometryError, InputError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.geometry import affine_from_dicom, canonicalise
from ctai_sam2.io.dicom_headers import damaged
from ctai_sam2.io.dicom_values import functional_value, number_of, value_of
from ctai_sam2.io.grids import grid_of, mask_from_canonical, plane_grid, put
from ctai_sam2.io.imported_masks import ImportedMasks
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.io.overlay import choose_colours
from ctai_sam2.io.source_images import (
    SourceImages,
    anonymise,
    missing_extra,
    read_derived,
    read_source_dataset,
)
from ctai_sam2.io.structure_terms import (
    Authorship,
    StructureTerm,
    add_name,
    checked_label,
    term_of,
)
from ctai_sam2.structures import rgb_of
from ctai_sam2.types import CTSlice, CTVolume, Mask

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""

_SERIES_NUMBER = 900
_KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")


def write_seg(
    path: str | os.PathLike[str],
    masks: Mapping[str, ArrayLike],
    of: CTSlice | CTVolume,
    source: SourceImages,
    *,
    authorship: Authorship | None = None,
    terms: Mapping[str, StructureTerm] | None = None,
    pseudonym: str | None = None,
    description: str = "Body composition at L3",
) -> Path:
    """Write masks as one binary DICOM SEG that refers to the images they were drawn on; returns the path.

    Segments may overlap. Images without a voxel of any mask get no frame.

    Parameters
    ----------
    path : path-like
        Where to write; usually ending in ``.dcm``.
    masks : mapping of str to array_like, shape (H, W) or (D, H, W)
        By structure; see `TERMS` for the names known.
    of : CTSlice or CTVolume
        What they were drawn on.
    source : SourceImages
        Its DICOM images, from `find_source_images`.
    authorship : Authorship, optional
        Who made the masks; by hand when omitted.
    terms : mapping of str to StructureTerm, optional
        Terms of further structures, or other terms for known ones.
    pseudonym : str, optional
        Stands for the patient's name and ID; birth date, study date and accession number are left empty.
        UIDs stay, since they are what refers to the images. When omitted the SEG repeats what the images
        say of patient and study, as the standard requires, and nothing beyond.
    description : str
        Content and series description; it must not identify a person.

    Raises
    ------
    InputError
        If there is no mask, all are empty, a shape differs or a label is unknown.
    GeometryError
        If the source's images are not those the masks were drawn on.
    DicomError
        If the images cannot be referred to, or highdicom refuses their header.
    StorageError
        If it cannot be written.
    """
    if not masks:
        raise InputError("there is no mask to export")
    described = {checked_label(name): term_of(name, terms) for name in masks}
    # One structure after the other, and only its images: masks of whole volumes are large.
    kept: list[tuple[NDArray[np.intp], NDArray[np.uint8]]] = []
    for name in masks:
        stored = source.stored_masks({name: masks[name]}, of)[name]
        at = np.flatnonzero(stored.any(axis=(1, 2)))
        kept.append((at, np.packbits(stored[at], axis=-1)))
    used = np.unique(np.concatenate([at for at, _ in kept]))
    if used.size == 0:
        raise InputError("all masks are empty, and a segmentation without a frame cannot be stored")
    try:
        import highdicom
        from highdicom.color import CIELabColor
        from pydicom.sr.coding import Code as Coded
        from pydicom.uid import generate_uid
    except ImportError as error:
        raise missing_extra("DICOM SEG", "highdicom") from error
    author = authorship or Authorship()
    colours = choose_colours(list(masks))

    def coded(code: tuple[str, str]) -> Any:
        return Coded(code[0], "SCT", code[1])

    images, rows, count = _images_and_rows(source, used)
    height, width = source.frames[0].shape_hw
    pixels = np.zeros((count, height, width, len(kept)), np.uint8)
    for segment, (at, bits) in enumerate(kept):
        pixels[[rows[int(index)] for index in at], ..., segment] = np.unpackbits(bits, axis=-1, count=width)
    for image in images:
        anonymise(image, pseudonym)
    algorithm = None
    if author.model is not None:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=author.model.name[:64],
            family=Coded("123109", "DCM", "Artificial Intelligence"),
            version=author.model.code_version[:64],
            source="ctai-sam2",
            parameters={
                "weights_sha256": author.model.weights_sha256,
                "image_size": str(author.model.image_size),
            },
        )
    try:
        with quiet("highdicom"):
            descriptions = [
                highdicom.seg.SegmentDescription(
                    segment_number=number,
                    segment_label=name,
                    segmented_property_category=coded(term.category),
                    segmented_property_type=coded(term.type),
                    algorithm_type=author.made_by.upper(),
                    algorithm_identification=algorithm,
                    anatomic_regions=None if term.region is None else [coded(term.region)],
                    display_color=CIELabColor(*_lab(colours[name])),
                )
                for number, (name, term) in enumerate(described.items(), start=1)
            ]
            for item, term in zip(descriptions, described.values(), strict=True):
                if term.side is not None:
                    item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                        highdicom.sr.CodedConcept.from_code(coded(term.side))
                    ]
            segmentation = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=pixels,
                segmentation_type="BINARY",
                segment_descriptions=descriptions,
                series_instance_uid=generate_uid(prefix=None),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=generate_uid(prefix=None),
                instance_number=1,
                manufacturer="ctai-sam2",
                manufacturer_model_name="ctai-sam2",
                software_versions=__version__,
                device_serial_number="0",
                content_description=description[:64],
                content_label="SEGMENTATION",
                series_description=description[:64],
            )
            if pseudonym is not None:
                segmentation.PatientIdentityRemoved = "YES"
                segmentation.DeidentificationMethod = "ctai-sam2: pseudonym, dates and numbers emptied"
            buffer = io.BytesIO()
            segmentation.save_as(buffer)
    except CtaiError:
        raise
    except Exception as error:  # highdicom raises many kinds for headers it cannot build upon
        raise DicomError(
            f"the images' headers do not allow a DICOM SEG ({type(error).__name__})",
            hint="Export the images again from the PACS, or export the masks to NIfTI.",
        ) from error
    return write_bytes(path, buffer.getvalue())


def read_seg(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    *,
    source: SourceImages | None = None,
) -> ImportedMasks:
    """Read a DICOM SEG's masks onto the pixels of a slice or the voxels of a volume.

    Frames go where they lie in the patient, whatever their orientation; nothing is
    resampled. For a slice, frames next to it are left out. A frame that is damaged or lies elsewhere is left
    out alone, with a note.

    Parameters
    ----------
    path : path-like
        A SEG by this or another program.
    of : CTSlice or CTVolume
        What to put the masks on.
    source : SourceImages, optional
        The images of ``of``; then the SEG must refer to their series.

    Returns
    -------
    ImportedMasks
        By segment, with notes: this package's name for it where label or codes say so, else its label.
        Fractional segments are cut at one half.

    Raises
    ------
    InputError
        If the SEG refers to another series, or to none and to another frame of reference.
    GeometryError
        If no frame lies on the image, or all are of another grid.
    DicomError
        If it is damaged, or no SEG.
    """
    path = Path(path)
    dataset = read_derived(path, SEG_CLASSES, "a DICOM SEG")
    notes: list[str] = []
    try:
        _require_consistent(path, dataset)
        names = _segment_names(dataset, notes)
        referenced = _referenced_series(dataset)
    except CtaiError:
        raise
    except Exception as error:  # malformed sequences surface only when they are looked at
        raise damaged(path, f"its segments cannot be parsed ({type(error).__name__})") from error
    if source is not None:
        frame_uid = str(value_of(dataset, "FrameOfReferenceUID") or "")
        source.require_referenced(referenced, [frame_uid] if frame_uid else [], path.name)
    target = grid_of(of)
    result = {name: np.zeros(target.shape_zyx, dtype=np.bool_) for name in names.values()}
    frames = _Frames(path, dataset, names)
    problems: list[CtaiError] = []
    lost: dict[str, list[str]] = {}
    touched: set[str] = set()
    for index in range(frames.count):
        numbers = frames.segments_of(index)
        for number in numbers & set(names):
            name = names[number]
            try:
                affine, mask_hw = frames.mask_of(index, number)
                block, _ = canonicalise(mask_hw[None], affine)
                if put(result[name], target, block, plane_grid(mask_hw.shape, affine), what=path.name):
                    touched.add(name)
            except (DicomError, GeometryError) as error:
                problems.append(error)
                lost.setdefault(name, []).append(error.problem)
    notes += frames.notes()
    for name, reasons in lost.items():
        for reason in dict.fromkeys(reasons):
            number = reasons.count(reason)
            notes.append(f"{name}: {number} {'frame' if number == 1 else 'frames'} left out, since {reason}")
    if not touched:
        raise (
            problems[0]
            if problems
            else GeometryError(
                f"no frame of {path.name} lies on the image",
                hint="Choose the slice or series it was drawn on.",
            )
        )
    # Of a segment all of whose frames were left out an empty mask would say that there is nothing.
    gone = [name for name in lost if name not in touched]
    return ImportedMasks(
        {name: mask_from_canonical(mask, of) for name, mask in result.items() if name not in gone},
        warnings=notes,
    )


def _require_consistent(path: Path, dataset: Any) -> None:
    """Refuse a SEG of an unknown kind, or whose number of frames is not that of the frames it describes."""
    kind = str(value_of(dataset, "SegmentationType") or "BINARY").upper()
    if kind not in _KINDS:
        raise DicomError(
            f"{path.name} is a segmentation of an unknown kind",
            hint=f"Export it as one of {', '.join(_KINDS)}.",
        )
    if kind == "FRACTIONAL" and not number_of(value_of(dataset, "MaximumFractionalValue")):
        raise DicomError(
            f"{path.name} holds fractions and does not say which value stands for all of a pixel",
            received="no MaximumFractionalValue (0062,000E)",
            hint="Export it again, as a binary segmentation if possible.",
        )
    stated = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
    described = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if described is not None and len(described) != stated:
        raise damaged(path, f"it states {stated} frames and describes {len(described)}")


def _images_and_rows(source: SourceImages, used: NDArray[np.intp]) -> tuple[list[Any], dict[int, int], int]:
    """Source headers, the place of each image used among the frames to write, and how many these are.

    They are the images used, or all frames of the one multi-frame file.
    """
    if not source.is_multiframe:
        chosen = [int(index) for index in used]
        images = [read_source_dataset(source.frames[index]) for index in chosen]
        for image in images:
            if number_of(value_of(image, "SliceThickness")) is None:
                image.SliceThickness = f"{source.step_mm:.6g}"
        return images, {index: row for row, index in enumerate(chosen)}, len(chosen)
    if len({frame.path for frame in source.frames}) > 1:
        raise DicomError(
            "the series is spread over several multi-frame files, which one SEG cannot refer to",
            hint="Export the masks to NIfTI or RTSTRUCT.",
        )
    image = read_source_dataset(source.frames[0])
    rows = {index: int(frame.frame) for index, frame in enumerate(source.frames)}
    return [image], rows, int(image.NumberOfFrames)


def _lab(colour: str) -> tuple[float, float, float]:
    from skimage.color import rgb2lab

    rgb = np.array(rgb_of(colour)) / 255
    lightness, a, b = rgb2lab(rgb)
    return float(lightness), float(a), float(b)


def _segment_names(dataset: Any, notes: list[str]) -> dict[int, str]:
    names: dict[int, str] = {}
    for item in dataset.SegmentSequence:
        number = int(item.SegmentNumber)
        type_item = (value_of(item, "SegmentedPropertyTypeCodeSequence") or [None])[0]
        sides = value_of(type_item, "SegmentedPropertyTypeModifierCodeSequence") if type_item else None
        regions = value_of(item, "AnatomicRegionSequence")
        label = str(value_of(item, "SegmentLabel") or f"segment {number}")
        codes = (
            None if type_item is None else str(value_of(type_item, "CodeValue") or "") or None,
            None if not sides else str(value_of(sides[0], "CodeValue") or "") or None,
            None if not regions else str(value_of(regions[0], "CodeValue") or "") or None,
        )
        if number != 0:  # a label map may describe its background as segment 0
            add_name(names, number, label, codes, "segments", notes)
    return names


def _referenced_series(dataset: Any) -> list[str]:
    items = value_of(dataset, "ReferencedSeriesSequence") or []
    return [str(item.SeriesInstanceUID) for item in items if value_of(item, "SeriesInstanceUID")]


class _Frames:
    """The frames of a SEG: which segments each shows, and where; counts what is read in another way."""

    def __init__(self, path: Path, dataset: Any, declared: Collection[int]) -> None:
        self._path = path
        self._dataset = dataset
        self._declared = set(declared)
        self._kind = str(value_of(dataset, "SegmentationType") or "BINARY").upper()
        self._half = (number_of(value_of(dataset, "MaximumFractionalValue")) or 1.0) / 2
        self.count = int(number_of(value_of(dataset, "NumberOfFrames")) or 1)
        self._undeclared: dict[int, int] = {}
        self._without_segment = 0
        self._fractions = 0
        self._labels: tuple[int, NDArray[Any]] | None = None

    def segments_of(self, index: int) -> set[int]:
        """Return the declared segments that a frame shows."""
        if self._kind == "LABELMAP":
            pixels = _pixels_of(self._path, self._dataset, index)
            self._labels = (index, pixels)
            found = {int(number) for number in np.unique(pixels)} - {0}
        else:
            number = number_of(
                functional_value(
                    self._dataset, index, "SegmentIdentificationSequence", "ReferencedSegmentNumber"
                )
            )
            if number is None and len(self._declared) == 1 and self.count == 1:
                return set(self._declared)
            if number is None:
                self._without_segment += 1
                return set()
            found = {int(number)}
        for number in found - self._declared:
            self._undeclared[number] = self._undeclared.get(number, 0) + 1
        return found & self._declared

    def mask_of(self, index: int, number: int) -> tuple[NDArray[np.float64], Mask]:
        """Affine and mask of a segment on a frame."""
        affine = _place_of(self._dataset, index)
        if self._kind == "LABELMAP" and self._labels is not None:
            return affine, np.asarray(self._labels[1] == number)
        pixels = _pixels_of(self._path, self._dataset, index)
        if self._kind == "FRACTIONAL":
            mask = np.asarray(pixels >= self._half)
            self._fractions += int(((pixels > 0) & (pixels < 2 * self._half)).any())
            return affine, mask
        if pixels.size and not np.isin(pixels, (0, pixels.max())).all():
            raise DicomError(f"a binary frame of {self._path.name} holds several values")
        return affine, np.asarray(pixels > 0)

    def notes(self) -> list[str]:
        """Say what was left out or cut, in sentences."""
        notes = [
            f"{number} {'frame' if number == 1 else 'frames'} of the undeclared segment {segment} left out"
            for segment, number in sorted(self._undeclared.items())
        ]
        if self._without_segment:
            notes.append(f"{self._without_segment} frames that name no segment left out")
        if self._fractions:
            notes.append(f"fractions on {self._fractions} frames were cut at one half")
        return notes


def _pixels_of(path: Path, dataset: Any, frame: int) -> NDArray[Any]:
    from pydicom.pixels.utils import iter_pixels

    try:
        with quiet("pydicom"):
            rows, columns = int(dataset.Rows), int(dataset.Columns)
            if int(dataset.BitsAllocated) != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
                [decoded] = iter_pixels(dataset, indices=[frame], raw=True)
                return np.asarray(decoded).reshape(rows, columns)
            # Frames of bits follow each other without padding (PS3.5 8.1.1): one may begin within a byte.
            first = frame * rows * columns
            data = np.frombuffer(dataset.PixelData, np.uint8)[first // 8 : -(-(first + rows * columns) // 8)]
            bits = np.unpackbits(data, bitorder="little")[first % 8 :][: rows * columns]
            return bits.reshape(rows, columns)
    except Exception as error:  # decoders raise many kinds
        raise damaged(path, f"its frames cannot be decoded ({type(error).__name__})") from error


def _place_of(dataset: Any, frame: int) -> NDArray[np.float64]:
    orientation = _numbers_of(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    position = _numbers_of(dataset, frame, "PlanePositionSequence", "ImagePositionPatient")
    spacing = _numbers_of(dataset, frame, "PixelMeasuresSequence", "PixelSpacing")
    if orientation is None or position is None or spacing is None:
        raise GeometryError(
            "a frame of the segmentation does not say where it lies",
            hint="Export it again; segmentations of slides or pictures cannot be placed on CT.",
        )
    return affine_from_dicom(orientation, position, spacing)


def _numbers_of(dataset: Any, frame: int, sequence: str, keyword: str) -> list[float] | None:
    """Numbers that a frame states; None where it states none, or text that is no number."""
    try:
        with quiet("pydicom"):
            return [float(value) for value in functional_value(dataset, frame, sequence, keyword)]
    except (TypeError, ValueError):
        return None
