"""Masks as DICOM RT Structure Sets (RTSTRUCT), written and read.

Outlines run along the edges between pixels, in the plane of the image they
refer to, so their area is that of the mask and filling them gives the mask
back. Holes are joined to the outline by a bridge of no width (the standard's
keyhole technique): every reader fills that alike. When read, outlines of one
structure on one image are combined: one within another is a hole, one drawn
twice counts once, and those that cross are united.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, DicomError, GeometryError, InputError
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.geometry import pixel_to_patient
from ctai_sam2.image.contours import (
    mask_to_polygons,
    polygon_to_keyhole,
)
from ctai_sam2.io.dicom_headers import damaged
from ctai_sam2.io.dicom_values import value_of
from ctai_sam2.io.dicom_writer import IMPLICIT_LITTLE_ENDIAN, encode_dataset
from ctai_sam2.io.grids import grid_of, mask_from_canonical
from ctai_sam2.io.imported_masks import ImportedMasks
from ctai_sam2.io.overlay import choose_colours
from ctai_sam2.io.rtstruct_outlines import StructureOutlines, outlines_by_number
from ctai_sam2.io.source_images import (
    STUDY_KEYWORDS,
    SourceImages,
    anonymise,
    read_derived,
    read_source_dataset,
)
from ctai_sam2.io.structure_terms import (
    TERMS,
    Authorship,
    Code,
    StructureTerm,
    add_name,
    checked_label,
)
from ctai_sam2.structures import rgb_of
from ctai_sam2.types import CTSlice, CTVolume, Mask

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage."""

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
_CONTOUR_DATA = 0x30060050
_SERIES_NUMBER = 901


def write_rtstruct(
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
    """Write masks as outlines in an RT Structure Set that refers to the images; returns the path.

    Parameters
    ----------
    path, masks, of, source, authorship, pseudonym, description
        As for `write_seg`. Any label is allowed; those with a term carry its code.
    terms : mapping of str to StructureTerm, optional
        Terms of further structures.

    Raises
    ------
    InputError
        If there is no mask, all are empty, a shape differs or a label cannot be stored.
    GeometryError
        If the source's images are not those the masks were drawn on.
    DicomError
        If the images cannot be referred to.
    StorageError
        If it cannot be written.

    Notes
    -----
    DICOM PS3.3 A.19.3 and C.8.8.5 to C.8.8.8. Coordinates are written to 0.0001 mm. A
    structure without a pixel is named without outlines.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    if not masks:
        raise InputError("there is no mask to export")
    names = [checked_label(name) for name in masks]
    image = read_source_dataset(source.frames[0])
    # One structure after the other: masks of whole volumes are large.
    contours = {
        name: _contours(source, source.stored_masks({name: masks[name]}, of)[name], image.SOPClassUID)
        for name in names
    }
    if not any(contours.values()):
        raise InputError("all masks are empty, so there is nothing to outline")
    anonymise(image, pseudonym)
    author = authorship or Authorship()
    known = {**TERMS, **(terms or {})}
    colours = choose_colours(names)
    now = datetime.now()

    dataset = Dataset()
    for keyword in STUDY_KEYWORDS:
        if keyword in image:
            setattr(dataset, keyword, image.get(keyword))
    if pseudonym is not None:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "ctai-sam2: pseudonym, dates and numbers emptied"
    dataset.SOPClassUID = RTSTRUCT_CLASS
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesNumber, dataset.InstanceNumber = _SERIES_NUMBER, 1
    dataset.SeriesDescription = description[:64]
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = "ctai-sam2"
    dataset.SoftwareVersions = __version__
    dataset.StructureSetLabel = "ctai-sam2"
    dataset.StructureSetDate = dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame_of_reference(source, image)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, name in enumerate(names, start=1):
        roi = Dataset()
        roi.ROINumber = number
        roi.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID
        roi.ROIName = name
        roi.ROIGenerationAlgorithm = author.made_by.upper()
        if author.model is not None:
            roi.ROIGenerationDescription = (
                f"{author.model.name[:24]} sha256 {author.model.weights_sha256[:16]}"[:64]
            )
        dataset.StructureSetROISequence.append(roi)
        outline = Dataset()
        outline.ROIDisplayColor = list(rgb_of(colours[name]))
        outline.ReferencedROINumber = number
        if contours[name]:
            outline.ContourSequence = contours[name]
        dataset.ROIContourSequence.append(outline)
        observation = Dataset()
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = "ORGAN"
        observation.ROIInterpreter = ""
        if name in known:
            observation.RTROIIdentificationCodeSequence = [_identification(known[name])]
        dataset.RTROIObservationsSequence.append(observation)
    # Long outlines exceed 65534 bytes, which a decimal string may not in explicit encoding.
    return write_bytes(path, encode_dataset(dataset, IMPLICIT_LITTLE_ENDIAN))


def read_rtstruct(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    *,
    source: SourceImages | None = None,
) -> ImportedMasks:
    """Read outlines of an RT Structure Set as masks on a slice or volume.

    A pixel belongs to a structure if its centre lies inside. An outline that is damaged, lies between
    slices or outside of the image is left out alone, with a note. Outlines
    drawn *through* the centres of edge pixels, as rt-utils writes them, therefore lose
    about half of these pixels.

    Parameters
    ----------
    path, of, source
        As for `read_seg`.

    Returns
    -------
    ImportedMasks
        By structure that has closed planar outlines, named as by `read_seg`; with notes.

    Raises
    ------
    InputError
        If it refers to another series, or to none and to another frame of reference.
    GeometryError
        If no outline can be used: none lies on the slice, or all are not parallel to the image's axes, lie
        between slices or outside of the image.
    DicomError
        If it is damaged, or no RT Structure Set.
    """
    path = Path(path)
    dataset = read_derived(path, (RTSTRUCT_CLASS,), "an RT Structure Set")
    notes: list[str] = []
    try:
        names = _structure_names(dataset, notes)
        referenced = _referenced_series(dataset)
        frames = _frames_of_reference(dataset)
        outlines, only_open = outlines_by_number(dataset, names, notes)
    except CtaiError:
        raise
    except Exception as error:  # malformed sequences and numbers surface only when they are looked at
        raise damaged(path, f"its outlines cannot be parsed ({type(error).__name__})") from error
    if source is not None:
        source.require_referenced(referenced, frames.values(), path.name)
        names = _in_frame(names, frames, source.frame_of_reference_uid, notes)
    target = grid_of(of)
    result: dict[str, Mask] = {}
    touched = False
    problems: list[CtaiError] = []
    for number, name in names.items():
        if number in only_open:
            problems.append(DicomError(f"{name} of {path.name} has points and open lines only"))
            continue
        structure = StructureOutlines(name, target, path.name)
        for outline in outlines.get(number, ()):
            structure.add(outline)
        notes += structure.notes
        problems += structure.problems
        canonical = structure.fill()
        notes += structure.fill_notes
        touched |= structure.touched
        if structure.problems and not structure.touched:
            # All that there was of it was left out: an empty mask would say that there is nothing.
            continue
        result[name] = mask_from_canonical(canonical, of)
    if not touched:
        if problems:
            raise problems[0]
        raise GeometryError(
            f"no outline of {path.name} lies on the image",
            hint="Choose the slice or series it was drawn on.",
        )
    return ImportedMasks(result, warnings=notes)


def _referenced_frame_of_reference(source: SourceImages, image: Any) -> Any:
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = [
        _image_reference(source, index, image.SOPClassUID) for index in range(len(source.frames))
    ]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = image.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    reference = Dataset()
    reference.FrameOfReferenceUID = image.FrameOfReferenceUID
    reference.RTReferencedStudySequence = [study]
    return reference


def _image_reference(source: SourceImages, index: int, sop_class: str) -> Any:
    from pydicom.dataset import Dataset

    frame = source.frames[index]
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class
    reference.ReferencedSOPInstanceUID = frame.instance_uid
    if source.is_multiframe:
        reference.ReferencedFrameNumber = frame.frame + 1
    return reference


def _contours(source: SourceImages, mask_nhw: Mask, sop_class: str) -> list[Any]:
    from pydicom.dataset import Dataset

    contours: list[Any] = []
    for index in np.flatnonzero(mask_nhw.any(axis=(1, 2))):
        affine = source.affine_of_frame(int(index))
        for polygon in mask_to_polygons(mask_nhw[index]):
            points_mm = pixel_to_patient(affine, polygon_to_keyhole(polygon))
            contour = Dataset()
            contour.ContourImageSequence = [_image_reference(source, int(index), sop_class)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points_mm)
            contour.ContourNumber = len(contours) + 1
            contour[_CONTOUR_DATA] = _contour_data(points_mm)
            contours.append(contour)
    return contours


def _contour_data(points_mm: NDArray[np.float64]) -> Any:
    """Encode an outline as it is written: pydicom would make an object of each number, and check it."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    text = "\\".join([_decimal(value) for value in points_mm.ravel().tolist()])
    value = (text + " " * (len(text) % 2)).encode("ascii")
    return RawDataElement(Tag(_CONTOUR_DATA), "DS", len(value), value, 0, True, True)


def _decimal(value: float) -> str:
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _identification(term: StructureTerm) -> Any:
    from pydicom.dataset import Dataset

    def coded(code: Code) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code[0], "SCT", code[1]
        return item

    result = coded(term.type)
    if term.side is not None:
        result.SegmentedPropertyTypeModifierCodeSequence = [coded(term.side)]
    return result


def _structure_names(dataset: Any, notes: list[str]) -> dict[int, str]:
    codes: dict[int, tuple[str | None, str | None]] = {}
    for item in value_of(dataset, "RTROIObservationsSequence") or []:
        found = value_of(item, "RTROIIdentificationCodeSequence")
        if found:
            sides = value_of(found[0], "SegmentedPropertyTypeModifierCodeSequence")
            side = str(value_of(sides[0], "CodeValue") or "") if sides else ""
            code = str(value_of(found[0], "CodeValue") or "")
            codes[int(item.ReferencedROINumber)] = (code or None, side or None)
    names: dict[int, str] = {}
    for item in dataset.StructureSetROISequence:
        number = int(item.ROINumber)
        label = str(value_of(item, "ROIName") or f"structure {number}")
        add_name(names, number, label, (*codes.get(number, (None, None)), None), "structures", notes)
    return names


def _frames_of_reference(dataset: Any) -> dict[int, str]:
    """Frame of reference that each structure was drawn in, where it says so."""
    stated = {
        int(item.ROINumber): str(value_of(item, "ReferencedFrameOfReferenceUID") or "")
        for item in dataset.StructureSetROISequence
    }
    return {number: uid for number, uid in stated.items() if uid}


def _in_frame(names: dict[int, str], frames: Mapping[int, str], own: str, notes: list[str]) -> dict[int, str]:
    """Leave out structures drawn on another scan, where others were drawn on this one.

    Where none was, identifiers were exchanged on the way, and the series that is named counts.
    """
    if own not in frames.values():
        return names
    others = [number for number in names if frames.get(number, own) != own]
    notes += [
        f"{names[number]} left out, since it was drawn in another frame of reference" for number in others
    ]
    return {number: name for number, name in names.items() if number not in others}


def _referenced_series(dataset: Any) -> list[str]:
    return [
        str(series.SeriesInstanceUID)
        for reference in value_of(dataset, "ReferencedFrameOfReferenceSequence") or []
        for study in value_of(reference, "RTReferencedStudySequence") or []
        for series in value_of(study, "RTReferencedSeriesSequence") or []
    ]
