"""Messages of the troubleshooting page, provoked: what comes out is what the page quotes."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import import_masks, read_structure_mask
from ctai_sam2.files.atomic import require_writable
from ctai_sam2.image.plausibility import require_measurable_slice
from ctai_sam2.io import read_slice, read_study, write_volume_nifti
from ctai_sam2.io.nifti import read_nifti
from ctai_sam2.mask_checks import describe_cut, require_not_cut
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TISSUE_DEFINITIONS
from ctai_sam2.phantom import make_axial_slice, random_parameters
from ctai_sam2.study.outputs import claim_folder
from ctai_sam2.types import CTSlice, CTVolume
from tests.docs.test_messages import QUOTED
from tests.unit.io.making import ct_dataset, edit, make_volume, save, write_series

VOLUME = make_volume((5, 12, 10))


def plain(line: str) -> str:
    """Leave out what was received: it belongs to the example."""
    return re.sub(r" \(received .*?\)(?=\.|$)", "", line).rstrip(".")


def slice_of(side: int, spacing_mm: float) -> CTSlice:
    return CTSlice(hu=np.linspace(-1000, 300, side * side).reshape(side, side), spacing_mm=(spacing_mm,) * 2)


def stack_at(folder: Path, positions: tuple[float, ...], **changes: Any) -> Path:
    paths = write_series(folder / "s", make_volume((len(positions), 4, 4)))
    for path, z in zip(paths, positions, strict=True):
        edit(path, ImagePositionPatient=[0.0, 0.0, z], SliceThickness=5, **changes)
    return folder / "s"


def two_acquisitions(folder: Path) -> None:
    place = stack_at(folder, (0, 5, 10, 0.4, 5.4, 10.4))
    for number, path in enumerate(sorted(place.iterdir())):
        edit(path, AcquisitionNumber=1 + number // 3, SeriesInstanceUID="1.2.3")
    read_study(place)


def grey_values(_: Path) -> None:
    require_measurable_slice(CTSlice(hu=np.arange(256).reshape(16, 16), spacing_mm=(1.0, 1.0)))


def no_air(_: Path) -> None:
    hu = np.zeros((40, 40))
    hu[8:32, 8:32] = np.linspace(-200, 200, 24)
    require_measurable_slice(CTSlice(hu=hu, spacing_mm=(3.0, 3.0)))


def no_trunk(folder: Path, spacing_mm: float) -> None:
    from ctai_sam2.image.plausibility import require_region

    phantom = make_axial_slice(
        random_parameters(np.random.default_rng(0)),
        shape_hw=(96, 96),
        spacing_mm=(4.2, 4.2),
        rng=np.random.default_rng(0),
    )
    require_region(CTSlice(hu=phantom.hu, spacing_mm=(spacing_mm,) * 2))


def damaged_gzip(folder: Path) -> None:
    path = write_volume_nifti(folder / "ct.nii.gz", VOLUME)
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes())))
    content[-8] ^= 0xFF
    path.write_bytes(content)
    read_nifti(path)


def oriented(folder: Path, sform: np.ndarray[Any, Any], qform: int) -> None:
    image: Any = nibabel.Nifti1Image(VOLUME.hu_zyx, np.diag([0.8, 0.75, 5.0, 1.0]))
    image.header.set_xyzt_units("mm")
    image.set_qform(np.diag([0.8, 0.75, 5.0, 1.0]), code=qform)
    image.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = sform[row]
    nibabel.Nifti1Image(VOLUME.hu_zyx, None, image.header).to_filename(folder / "ct.nii")
    read_nifti(folder / "ct.nii")


def half_a_pair(folder: Path) -> None:
    path = write_volume_nifti(folder / "a.nii", VOLUME)
    (folder / "ct.hdr").write_bytes(path.read_bytes()[:348])
    read_study(folder / "ct.hdr")


def four_sizes(folder: Path) -> None:
    head = (
        "NRRD0004\ntype: int16\ndimension: 4\nspace: left-posterior-superior\nsizes: 3 4 4 2\n"
        "kinds: vector domain domain domain\nendian: little\nencoding: raw\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    (folder / "ct.nrrd").write_bytes(head.encode() + bytes(2 * 96))
    read_study(folder / "ct.nrrd")


def label_map(folder: Path, name: str, values: np.ndarray[Any, Any]) -> Path:
    affine = VOLUME.affine * np.array([[-1], [-1], [1], [1]])
    nibabel.Nifti1Image(values.T, affine).to_filename(folder / name)
    return folder / name


def fractions(folder: Path) -> None:
    values = np.zeros(VOLUME.shape_zyx, np.float32)
    values[2, 3:5] = 0.34
    import_masks(label_map(folder, "psoas.nii.gz", values), VOLUME)


def several_labels(folder: Path) -> None:
    values = np.zeros(VOLUME.shape_zyx, np.uint8)
    values[2, 3:5], values[2, 6:8] = 1, 2
    read_structure_mask(label_map(folder, "labels.nii.gz", values), VOLUME.axial(2), "muscle")


def another_slice(folder: Path) -> None:
    values = np.zeros(VOLUME.shape_zyx, np.uint8)
    values[4, 3:5] = 1
    read_structure_mask(label_map(folder, "muscle.nii.gz", values), VOLUME.axial(2), "muscle")


def another_study(folder: Path) -> None:
    claim_folder(folder / "results", VOLUME)
    other = CTVolume(hu_zyx=VOLUME.hu_zyx + np.int16(1), affine=VOLUME.affine)
    claim_folder(folder / "results", other)


def other_files(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    read_study(folder)


def a_bare_picture(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "a.png")
    read_slice(folder / "a.png")


def wrong_high_bit(folder: Path) -> None:
    dataset = ct_dataset(np.arange(24, dtype=np.uint16).reshape(4, 6), BitsStored=12, HighBit=15)
    read_slice(save(dataset, folder / "1.dcm"))


def no_folder(folder: Path) -> None:
    (folder / "file").write_text("x")
    require_writable(folder / "file" / "results")


PROVOKED: dict[str, Callable[[Path], object]] = {
    "no CT has this field of view": lambda _: require_measurable_slice(slice_of(512, 8.0)),
    "no CT has this pixel spacing": lambda _: require_measurable_slice(slice_of(64, 0.08)),
    "too coarse to measure": lambda _: require_measurable_slice(slice_of(48, 8.0)),
    "nothing is computed from this image": grey_values,
    "there is no air around the body": no_air,
    "has the size of no trunk": lambda folder: no_trunk(folder, 14.0),
    "no rescale intercept": lambda folder: read_slice(
        save(ct_dataset(RescaleIntercept=None), folder / "1.dcm")
    ),
    "do not reach the high bit": wrong_high_bit,
    "does not match its checksum": damaged_gzip,
    "two orientations that contradict": lambda folder: oriented(
        folder, np.diag([-0.8, 0.75, 5.0, 1.0]), qform=1
    ),
    "two voxel sizes": lambda folder: oriented(folder, np.diag([1.6, 1.5, 5.0, 1.0]), qform=0),
    "half of a pair": half_a_pair,
    "not a three-dimensional volume": four_sizes,
    "neither DICOM nor NIfTI": other_files,
    "window and spacing_mm": a_bare_picture,
    "psoas.nii.gz holds fractions": fractions,
    "none is called muscle": several_labels,
    "was cut to -150 to -50 HU": lambda _: require_not_cut(
        "vat", describe_cut("vat", DEFAULT_DEFINITIONS), TISSUE_DEFINITIONS["one-fat-range"]
    ),
    "has no voxel on this slice": another_slice,
    "results of another study": another_study,
    "nothing can be written to the folder": no_folder,
    "no image orientation": lambda folder: read_study(
        stack_at(folder, (0, 5, 10), ImageOrientationPatient=None)
    ),
    "one series holds several stacks": two_acquisitions,
    "one slice is there twice": lambda folder: read_study(stack_at(folder, (0, 5, 5, 10))),
    "stacks lie within each other": lambda folder: read_study(stack_at(folder, (0, 0.5, 5, 5.5, 10, 10.5))),
}
"""What each quoted message can be had with."""


@pytest.mark.parametrize("words", PROVOKED)
def test_what_is_quoted_comes_out(tmp_path: Path, words: str) -> None:
    (line,) = [line for line in QUOTED if words in line]
    with pytest.raises(CtaiError) as caught:
        PROVOKED[words](tmp_path)
    assert plain(f"{type(caught.value).__name__}: {caught.value}").startswith(plain(line))
