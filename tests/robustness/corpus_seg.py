"""SEG files in many shapes, each with what it means: the right masks, or a refusal.

The files are built here element by element, bits included; no writer or reader of the package
takes part. The right masks are those of `corpus_masks`, by index arithmetic.
"""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.robustness.mask_case import LABELS, ORIGIN_LPS, SHAPE_ZYX, SPACING_XYZ, WHOLE, MaskCase

SEG, LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
ORIGIN, STEP = np.array(ORIGIN_LPS), np.array(SPACING_XYZ)
AXIAL = (1, 0, 0, 0, 1, 0)
TEXTS = {
    "ISO 2022 IR 87": ("腰筋", b"\x1b$B9x6Z\x1b(B"),
    "ISO 2022 IR 149": ("근육", b"\x1b$)C\xb1\xd9\xc0\xb0"),
    "GB18030": ("腰大肌", "腰大肌".encode("gb18030")),
    "ISO_IR 192": ("腰大肌", "腰大肌".encode()),
    "ISO_IR 100": ("Größe", "Größe".encode("latin-1")),
    "ISO_IR 144": ("Мышца", "Мышца".encode("iso8859_5")),
}
"""Labels by character set, with their bytes by PS3.3 C.12.1.1.2 and PS3.5 annexes H to K."""


def make_item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(item, name, value)
    return item


def save(dataset: Dataset, folder: Path, *, syntax: str = ImplicitVRLittleEndian, cut: int = 0) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    path = folder / "m.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
    return path


class Frame:
    """A frame of a SEG: a segment's mask in a plane of its own."""

    def __init__(
        self,
        number: int | None,
        z: float,
        mask: Any,
        *,
        orientation: Sequence[float] = AXIAL,
        position: Any = None,
        spacing: Any = None,
    ) -> None:
        self.number, self.mask, self.orientation = number, np.asarray(mask), orientation
        self.position = ORIGIN + np.array([0, 0, z * STEP[2]]) if position is None else position
        self.spacing = (STEP[1], STEP[0]) if spacing is None else spacing

    def groups(self) -> Dataset:
        groups = make_item(
            PlanePositionSequence=[make_item(ImagePositionPatient=[f"{v:.5f}" for v in self.position])],
            PlaneOrientationSequence=[make_item(ImageOrientationPatient=list(self.orientation))],
            PixelMeasuresSequence=[make_item(PixelSpacing=list(self.spacing), SliceThickness=STEP[2])],
        )
        if self.number is not None:
            groups.SegmentIdentificationSequence = [make_item(ReferencedSegmentNumber=self.number)]
        return groups


def plain_frames() -> list[Frame]:
    return [
        Frame(number, z, LABELS[z] == number)
        for number in (1, 2, 3)
        for z in range(SHAPE_ZYX[0])
        if (LABELS[z] == number).any()
    ]


def make_seg(
    frames: Sequence[Frame],
    *,
    labels: Mapping[int, Any] | None = None,
    kind: str = "BINARY",
    bits: int = 1,
    charset: Any = None,
    compress: bool = False,
    **changes: Any,
) -> Dataset:
    rows, columns = frames[0].mask.shape
    dataset = make_item(SOPClassUID=LABELMAP if kind == "LABELMAP" else SEG, SOPInstanceUID="2.25.5", SeriesInstanceUID="2.25.6", StudyInstanceUID="2.25.7", FrameOfReferenceUID="2.25.8", Modality="SEG", PatientID="P", SpecificCharacterSet=charset, SegmentationType=kind, Rows=rows, Columns=columns, NumberOfFrames=len(frames), SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=0)  # fmt: skip
    dataset.SegmentSequence = []
    for number, label in (labels or {1: "one", 2: "two", 3: "three"}).items():
        item = make_item(SegmentNumber=number, SegmentAlgorithmType="MANUAL")
        item.add_new(0x00620005, "LO", label)
        dataset.SegmentSequence.append(item)
    dataset.PerFrameFunctionalGroupsSequence = [frame.groups() for frame in frames]
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    values = np.stack([frame.mask for frame in frames])
    if bits == 1:
        data = np.packbits(values.ravel().astype(np.uint8), bitorder="little").tobytes()
    else:
        data = values.astype(f"<u{bits // 8}").tobytes()
    if compress:
        from pydicom.pixels.encoders import RLELosslessEncoder

        options = {"rows": rows, "columns": columns, "number_of_frames": 1, "samples_per_pixel": 1, "bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2"}  # fmt: skip
        parts = [
            RLELosslessEncoder.encode(np.ascontiguousarray(one.astype(np.uint8)), **options) for one in values
        ]
        dataset.PixelData = encapsulate(parts)
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits < 16 else "OW"
    return with_changes(dataset, changes)


def with_changes(dataset: Dataset, changes: Mapping[str, Any]) -> Dataset:
    """Set elements, and delete those that are None."""
    for name, value in changes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def dicom_case(
    kind: str,
    name: str,
    make: Callable[[], Dataset],
    expected: Any = WHOLE,
    said: str | None = None,
    *,
    syntax: str = ImplicitVRLittleEndian,
    cut: int = 0,
) -> MaskCase:
    """Make a case of a dataset that is saved as it is, or cut off."""
    return MaskCase(
        name=f"{kind}, {name}",
        write=lambda folder: save(make(), folder, syntax=syntax, cut=cut),
        expected=expected,
        said=said,
    )


_seg_case = partial(dicom_case, "seg")


def _without(mask: Any, **planes: Any) -> Any:
    left = mask.copy()
    for z in planes["z"]:
        left[z] = False
    return left


def seg_cases() -> Iterator[MaskCase]:
    frames = plain_frames
    empty = np.zeros(SHAPE_ZYX, bool)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        yield _seg_case(f"as {syntax.name}", lambda: make_seg(frames()), syntax=syntax)
    yield _seg_case("frames from last to first", lambda: make_seg(frames()[::-1]))
    for seed in range(3):
        yield _seg_case(
            f"frames in any order {seed}",
            lambda seed=seed: make_seg(
                [frames()[i] for i in np.random.default_rng(seed).permutation(len(frames()))]
            ),
        )
    yield from _seg_turned()
    yield _seg_case("8 bits, 0 and 1", lambda: make_seg(frames(), bits=8))
    yield _seg_case(
        "8 bits, 0 and 255",
        lambda: make_seg([Frame(f.number, 0, f.mask * 255, position=f.position) for f in frames()], bits=8),
    )
    yield _seg_case("RLE", lambda: make_seg(frames(), bits=8, compress=True), syntax=RLELossless)
    for most in (255, 100, 1000):
        bits = 16 if most > 255 else 8
        shades = [(f, np.where(f.mask, most, 0)) for f in frames()]
        soft = [(f, np.where(f.mask, (most + 1) // 2 + 1, most // 2 - 1)) for f in frames()]
        for word, planes, said in (("hard", shades, None), ("soft", soft, "cut at one half")):
            yield _seg_case(
                f"fractional up to {most}, {word}",
                lambda planes=planes, bits=bits, most=most: make_seg([Frame(f.number, 0, v, position=f.position) for f, v in planes], kind="FRACTIONAL", bits=bits, MaximumFractionalValue=most),
                said=said,
            )  # fmt: skip
    yield _seg_case(
        "fractions of nobody knows what",
        lambda: make_seg(plain_frames(), kind="FRACTIONAL", bits=8),
        None,
        "which value stands for all of a pixel",
    )
    for bits in (8, 16):
        for frames_of in (range(SHAPE_ZYX[0]), range(1, 4)):
            yield _seg_case(
                f"label map of {bits} bits, frames {len(frames_of)}",
                lambda bits=bits, zs=frames_of: make_seg(
                    [Frame(None, z, LABELS[z]) for z in zs], kind="LABELMAP", bits=bits
                ),
            )
    yield _seg_case(
        "label map with a label that is not declared",
        lambda: make_seg(
            [Frame(None, z, LABELS[z]) for z in range(5)],
            kind="LABELMAP",
            bits=8,
            labels={1: "one", 2: "two"},
        ),
        {"one": WHOLE["one"], "two": WHOLE["two"]},
        "undeclared segment 3",
    )
    yield _seg_case(
        "numbers with gaps",
        lambda: make_seg(
            [Frame({1: 4, 2: 9, 3: 200}[f.number or 0], 0, f.mask, position=f.position) for f in frames()],
            labels={4: "one", 9: "two", 200: "three"},
        ),
    )
    yield _seg_case(
        "a segment that is not declared",
        lambda: make_seg(frames(), labels={1: "one", 3: "three"}),
        {"one": WHOLE["one"], "three": WHOLE["three"]},
        "undeclared segment 2",
    )
    yield _seg_case(
        "two segments of one label",
        lambda: make_seg(frames(), labels={1: "one", 2: "one", 3: "three"}),
        {"one": WHOLE["one"], "one_2": WHOLE["two"], "three": WHOLE["three"]},
        "stands twice",
    )
    yield _seg_case(
        "a segment without frames",
        lambda: make_seg(frames(), labels={1: "one", 2: "two", 3: "three", 4: "four"}),
        {**WHOLE, "four": empty},
    )
    yield _seg_case(
        "a frame that names no segment",
        lambda: make_seg([*frames()[:-1], Frame(None, 2, LABELS[2] == 3)]),
        {**WHOLE, "three": empty},
        "name no segment",
    )
    yield _seg_case(
        "segments that overlap",
        lambda: make_seg([*frames(), Frame(1, 2, LABELS[2] == 3)]),
        {**WHOLE, "one": WHOLE["one"] | WHOLE["three"]},
    )
    yield _seg_case("a frame twice", lambda: make_seg([*frames(), frames()[0]]))
    for shift in (0.3, 0.5):
        yield _seg_case(
            f"a frame {shift} of a slice off",
            lambda shift=shift: make_seg([*frames()[:-1], Frame(3, 2 + shift, LABELS[2] == 3)]),
            {"one": WHOLE["one"], "two": WHOLE["two"]},
            "three: 1 frame left out",
        )
    yield _seg_case(
        "a frame off by rounding", lambda: make_seg([*frames()[:-1], Frame(3, 2.0002, LABELS[2] == 3)])
    )
    yield _seg_case(
        "a frame in another field of view",
        lambda: make_seg(
            [*frames()[:-1], Frame(3, 2, LABELS[2] == 3, position=ORIGIN + np.array([0.3, 0, 2 * STEP[2]]))]
        ),
        {"one": WHOLE["one"], "two": WHOLE["two"]},
        "three: 1 frame left out",
    )
    yield _seg_case(
        "a frame of other pixels",
        lambda: make_seg([*frames()[:-1], Frame(3, 2, LABELS[2] == 3, spacing=(0.9, 0.9))]),
        {"one": WHOLE["one"], "two": WHOLE["two"]},
        "three: 1 frame left out",
    )
    yield _seg_case(
        "a tilted frame",
        lambda: make_seg(
            [*frames()[:-1], Frame(3, 2, LABELS[2] == 3, orientation=(1, 0, 0, 0, 0.98, 0.199))]
        ),
        {"one": WHOLE["one"], "two": WHOLE["two"]},
        "three: 1 frame left out",
    )
    yield _seg_case(
        "a frame without a place",
        lambda: edited(
            make_seg(frames()),
            lambda d: delattr(d.PerFrameFunctionalGroupsSequence[-1], "PlanePositionSequence"),
        ),
        {"one": WHOLE["one"], "two": WHOLE["two"]},
        "three: 1 frame left out",
    )
    for position in ("nan\\nan\\nan", "1\\2", "a\\b\\c", "1,5\\2\\3", ""):
        yield _seg_case(
            f"a frame at {position!r}",
            lambda position=position: edited(make_seg(frames()), partial(_place_last, position)),
            {"one": WHOLE["one"], "two": WHOLE["two"]},
            "three: 1 frame left out",
        )
    yield _seg_case(
        "rows and columns' spacing swapped",
        lambda: make_seg(
            [Frame(f.number, 0, f.mask, position=f.position, spacing=(STEP[0], STEP[1])) for f in frames()]
        ),
        None,
    )
    yield _seg_case(
        "in metres",
        lambda: make_seg(
            [
                Frame(
                    f.number, 0, f.mask, position=f.position / 1000, spacing=(STEP[1] / 1000, STEP[0] / 1000)
                )
                for f in frames()
            ]
        ),
        None,
    )
    yield _seg_case(
        "of the next patient's place",
        lambda: make_seg([Frame(f.number, 0, f.mask, position=f.position + 500) for f in frames()]),
        None,
    )
    for count, said in ((3, "frames"), (40, "frames")):
        yield _seg_case(
            f"NumberOfFrames {count} of {len(frames())}",
            lambda count=count: make_seg(frames(), NumberOfFrames=count),
            None,
            said,
        )
    yield _seg_case(
        "fewer places than frames",
        lambda: edited(make_seg(frames()), lambda d: d.PerFrameFunctionalGroupsSequence.pop()),
        None,
    )
    yield _seg_case("no segments", lambda: make_seg(frames(), SegmentSequence=None), None)
    yield _seg_case("no pixels", lambda: make_seg(frames(), PixelData=None), None)
    yield _seg_case("no frames", lambda: make_seg(frames(), PerFrameFunctionalGroupsSequence=None), None)
    yield _seg_case(
        "a CT's class",
        lambda: make_seg(frames(), SOPClassUID=CTImageStorage),
        None,
        "not a DICOM SEG or RTSTRUCT",
    )
    yield _seg_case("an unknown kind", lambda: make_seg(frames(), SegmentationType="PROBABLY"), None)
    yield _seg_case("its last frame cut off", lambda: make_seg(frames()), {"one": WHOLE["one"], "two": WHOLE["two"]}, "three: 1 frame left out", cut=8)  # fmt: skip
    yield _seg_case("its last frames cut off", lambda: make_seg(frames()), {"one": box_mask((1, (2, 6), (1, 4)), (2, (2, 6), (1, 4)))}, "two: 2 frames left out", cut=60)  # fmt: skip
    yield _seg_case("cut off in its header", lambda: make_seg(frames()), None, cut=2000)
    yield _seg_case("several values in a binary frame", lambda: make_seg([*frames()[:-1], Frame(3, 2, LABELS[2])], bits=8), {"one": WHOLE["one"], "two": WHOLE["two"]}, "three: 1 frame left out")  # fmt: skip
    for charset, (text, raw) in TEXTS.items():
        yield _seg_case(
            f"labels in {charset}",
            lambda charset=charset, raw=raw: make_seg(
                frames(),
                labels={1: raw, 2: b"two", 3: b"three"},
                charset=["", charset] if "2022" in charset else charset,
            ),
            {text: WHOLE["one"], "two": WHOLE["two"], "three": WHOLE["three"]},
        )


def edited(dataset: Dataset, edit: Callable[[Dataset], Any]) -> Dataset:
    edit(dataset)
    return dataset


def _place_last(position: str, dataset: Dataset) -> None:
    """Put the last frame's position into the file as it stands."""
    tag = Tag(0x00200032)
    data = position.encode() + b" " * (len(position) % 2)
    place = dataset.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    place[tag] = RawDataElement(tag, "DS", len(data), data, 0, True, True)


def _seg_turned() -> Iterator[MaskCase]:
    """Frames in every orientation: rows and columns swapped and reversed, and planes of the other axes."""
    axes = {"x": 0, "y": 1, "z": 2}
    for rows, columns in (("y", "x"), ("x", "y"), ("z", "x"), ("x", "z"), ("z", "y"), ("y", "z")):
        for down, right in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
            yield _seg_case(
                f"rows along {rows}{down:+d}, columns along {columns}{right:+d}",
                partial(_turned, axes[rows], axes[columns], down, right),
            )


def _turned(rows: int, columns: int, down: int, right: int) -> Dataset:
    """A SEG whose frames have these axes; rows along ``rows`` means that a row's index counts along it."""
    across = 3 - rows - columns
    xyz = LABELS.transpose(2, 1, 0)
    along_row, along_column = np.zeros(3), np.zeros(3)
    along_row[columns], along_column[rows] = right, down
    frames = []
    for number in (1, 2, 3):
        for k in range(xyz.shape[across]):
            plane = np.take(xyz == number, k, axis=across)
            if not plane.any():
                continue
            # What is left has its axes in rising order: rows first.
            plane = plane if rows < columns else plane.T
            start = np.zeros(3)
            start[across] = k
            if down < 0:
                plane, start[rows] = plane[::-1], xyz.shape[rows] - 1
            if right < 0:
                plane, start[columns] = plane[:, ::-1], xyz.shape[columns] - 1
            frames.append(
                Frame(
                    number,
                    0,
                    plane,
                    orientation=(*along_row, *along_column),
                    position=ORIGIN + start * STEP,
                    spacing=(STEP[rows], STEP[columns]),
                )
            )
    return make_seg(frames)


def box_mask(*boxes: tuple[int, tuple[int, int], tuple[int, int]]) -> Any:
    mask = np.zeros(SHAPE_ZYX, bool)
    for z, (top, bottom), (left, right) in boxes:
        mask[z, top:bottom, left:right] = True
    return mask
