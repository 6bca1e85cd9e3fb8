"""RTSTRUCT files in many shapes, each with what it means: the right masks, or a refusal.

The files are built here element by element; no writer or reader of the package takes part. The right masks
are those of `corpus_masks`, by index arithmetic.
"""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.robustness.corpus_seg import (
    ORIGIN,
    STEP,
    TEXTS,
    box_mask,
    dicom_case,
    edited,
    make_item,
    with_changes,
)
from tests.robustness.mask_case import SHAPE_ZYX, WHOLE, MaskCase

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


def outline(
    z: float, rows: tuple[float, float], columns: tuple[float, float], *, reverse: bool = False
) -> list[list[float]]:
    """Corners of a box of pixels, first to last, along the edges between pixels, in mm."""
    (top, bottom), (left, right) = (rows[0] - 0.5, rows[1] - 0.5), (columns[0] - 0.5, columns[1] - 0.5)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    points = [list(ORIGIN + np.array([x, y, z]) * STEP) for x, y in corners]
    return points[::-1] if reverse else points


def contour(points: Any, kind: str = "CLOSED_PLANAR", **changes: Any) -> Dataset:
    flat = [value for point in points for value in point]
    item = make_item(ContourGeometricType=kind, NumberOfContourPoints=len(flat) // 3)
    raw = "\\".join(value if isinstance(value, str) else f"{value:.4f}" for value in flat)
    item.add_new(0x30060050, "DS", None)
    item["ContourData"]._value = [] if not raw else None
    return _with_raw(item, raw, changes)


def _with_raw(item: Dataset, raw: str, changes: Mapping[str, Any]) -> Dataset:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    data = raw.encode()
    data += b" " * (len(data) % 2)
    item[Tag(0x30060050)] = RawDataElement(Tag(0x30060050), "DS", len(data), data, 0, True, True)
    for name, value in changes.items():
        if value is None:
            delattr(item, name)
        else:
            setattr(item, name, value)
    return item


BOXES = {
    1: [(1, (2, 6), (1, 4)), (2, (2, 6), (1, 4)), (3, (2, 6), (1, 4))],
    2: [(2, (7, 10), (5, 10)), (3, (7, 10), (5, 10))],
    3: [(2, (10, 13), (1, 9))],
}
"""The boxes of `corpus_masks.LABELS`: slice, rows and columns, each from and to."""


def plain_contours() -> dict[int, list[Dataset]]:
    return {number: [contour(outline(*box)) for box in boxes] for number, boxes in BOXES.items()}


def make_rtstruct(
    contours: Mapping[int, Sequence[Dataset]],
    *,
    names: Sequence[tuple[int, Any]] = ((1, "one"), (2, "two"), (3, "three")),
    charset: Any = None,
    **changes: Any,
) -> Dataset:
    dataset = make_item(SOPClassUID=RTSTRUCT, SOPInstanceUID="2.25.5", SeriesInstanceUID="2.25.6", StudyInstanceUID="2.25.7", FrameOfReferenceUID="2.25.8", Modality="RTSTRUCT", PatientID="P", SpecificCharacterSet=charset)  # fmt: skip
    dataset.StructureSetROISequence = []
    for number, name in names:
        item = make_item(ROINumber=number, ReferencedFrameOfReferenceUID="2.25.8")
        item.add_new(0x30060026, "LO", name)
        dataset.StructureSetROISequence.append(item)
    dataset.ROIContourSequence = [
        make_item(ReferencedROINumber=number, ContourSequence=list(items))
        for number, items in contours.items()
    ]
    return with_changes(dataset, changes)


_rt_case = partial(dicom_case, "rtstruct")


def _replaced(number: int, *items: Dataset) -> Dataset:
    return make_rtstruct({**plain_contours(), number: list(items)})


def _added(*items: Dataset, number: int = 3) -> Dataset:
    contours = plain_contours()
    contours[number] += items
    return make_rtstruct(contours)


def rtstruct_cases() -> Iterator[MaskCase]:
    lost = {"one": WHOLE["one"], "two": WHOLE["two"]}
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        yield _rt_case(f"as {syntax.name}", lambda: make_rtstruct(plain_contours()), syntax=syntax)
    box = (2, (10, 13), (1, 9))
    points = outline(*box)
    yield _rt_case("the other way round", lambda: _replaced(3, contour(points[::-1])))
    for start in (1, 2, 3):
        yield _rt_case(
            f"from corner {start}", lambda start=start: _replaced(3, contour(points[start:] + points[:start]))
        )
    yield _rt_case("closed with its first point", lambda: _replaced(3, contour([*points, points[0]])))
    yield _rt_case("each point twice", lambda: _replaced(3, contour([p for p in points for _ in (0, 1)])))
    middles = [
        list((np.array(a) + np.array(b)) / 2) for a, b in zip(points, [*points[1:], points[0]], strict=True)
    ]
    yield _rt_case(
        "points along the edges",
        lambda: _replaced(3, contour([p for pair in zip(points, middles, strict=True) for p in pair])),
    )
    for reverse in (False, True):
        yield _rt_case(
            f"an outline twice {reverse}",
            lambda reverse=reverse: _added(contour(outline(*box, reverse=reverse))),
        )
        yield _rt_case(
            f"an outline three times {reverse}",
            lambda reverse=reverse: _added(contour(outline(*box, reverse=reverse)), contour(points)),
        )
        hole = outline(2, (11, 12), (3, 6), reverse=reverse)
        yield _rt_case(
            f"a hole {reverse}",
            lambda hole=hole: _added(contour(hole)),
            {**WHOLE, "three": box_mask(box) & ~box_mask((2, (11, 12), (3, 6)))},
        )
    yield _rt_case(
        "a hole by a bridge",
        lambda: _replaced(
            3,
            contour(
                [
                    *points,
                    points[0],
                    *outline(2, (11, 12), (3, 6), reverse=True),
                    outline(2, (11, 12), (3, 6), reverse=True)[0],
                    points[0],
                ]
            ),
        ),
        {**WHOLE, "three": box_mask(box) & ~box_mask((2, (11, 12), (3, 6)))},
    )
    yield _rt_case(
        "two parts",
        lambda: _added(contour(outline(2, (0, 2), (5, 8)))),
        {**WHOLE, "three": box_mask(box, (2, (0, 2), (5, 8)))},
    )
    yield _rt_case(
        "two that cross",
        lambda: _added(contour(outline(2, (11, 14), (4, 7)))),
        {**WHOLE, "three": box_mask(box, (2, (11, 14), (4, 7)))},
    )
    yield _rt_case(
        "two that touch",
        lambda: _added(contour(outline(2, (13, 14), (1, 9)))),
        {**WHOLE, "three": box_mask(box, (2, (13, 14), (1, 9)))},
    )
    yield _rt_case(
        "an island in a hole",
        lambda: _replaced(
            3,
            contour(outline(2, (0, 14), (0, 11))),
            contour(outline(2, (2, 12), (2, 9))),
            contour(outline(2, (4, 10), (4, 7))),
        ),
        {
            **WHOLE,
            "three": box_mask((2, (0, 14), (0, 11))) & ~box_mask((2, (2, 12), (2, 9)))
            | box_mask((2, (4, 10), (4, 7))),
        },
    )
    for kind in ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"):
        yield _rt_case(
            f"a {kind} as well",
            lambda kind=kind: _added(
                contour(points[:1] if kind == "POINT" else outline(2, (0, 2), (5, 8)), kind)
            ),
            WHOLE,
            "three",
        )
    bad = {
        "of two points": lambda: contour(points[:2]),
        "of one point": lambda: contour(points[:1]),
        "without points": lambda: contour([]),
        "on a line": lambda: contour([points[0], middles[0], points[1]]),
        "with a number missing": lambda: contour([*points[:-1], points[-1][:2]]),
        "with a word": lambda: contour([["abc", "1", "2"], *points]),
        "with nan": lambda: contour([["nan", "nan", "nan"], *points]),
        "with infinity": lambda: contour([["1e999", "0", "0"], *points]),
        "with decimal commas": lambda: contour([[f"{v:.2f}".replace(".", ",") for v in p] for p in points]),
        "half a slice off": lambda: contour(outline(1.5, *box[1:])),
        "across slices": lambda: contour([[x, y, z + i * STEP[2]] for i, (x, y, z) in enumerate(points)]),
        "beyond the last slice": lambda: contour(outline(7, *box[1:])),
        "beyond the image": lambda: contour(outline(2, (30, 40), (30, 40))),
        "of an unknown type": lambda: contour(points, kind="ROUND"),
    }  # fmt: skip
    for name, make in bad.items():
        yield _rt_case(f"only an outline {name}", lambda make=make: _replaced(3, make()), lost, "three")
        other = outline(2, (0, 2), (5, 8))
        yield _rt_case(
            f"an outline {name} as well",
            lambda make=make, other=other: _replaced(3, contour(points), contour(other), make()),
            {**WHOLE, "three": box_mask(box, (2, (0, 2), (5, 8)))},
            "three",
        )
    yield _rt_case("an outline without a type", lambda: _replaced(3, contour(points, ContourGeometricType=None)))  # fmt: skip
    yield _rt_case("number of points wrong", lambda: _replaced(3, contour(points, NumberOfContourPoints=3)))
    yield _rt_case(
        "number of points missing", lambda: _replaced(3, contour(points, NumberOfContourPoints=None))
    )
    yield _rt_case(
        "a little off the plane", lambda: _replaced(3, contour([[x, y, z + 0.01] for x, y, z in points]))
    )
    yield _rt_case(
        "a name twice",
        lambda: make_rtstruct(plain_contours(), names=((1, "one"), (2, "one"), (3, "three"))),
        {"one": WHOLE["one"], "one_2": WHOLE["two"], "three": WHOLE["three"]},
        "stands twice",
    )
    yield _rt_case(
        "outlines of no structure",
        lambda: make_rtstruct(plain_contours(), names=((1, "one"), (2, "two"))),
        lost,
        "1 outline of undeclared structures",
    )
    yield _rt_case(
        "a structure without outlines",
        lambda: make_rtstruct(plain_contours(), names=((1, "one"), (2, "two"), (3, "three"), (4, "four"))),
        {**WHOLE, "four": np.zeros(SHAPE_ZYX, bool)},
    )
    yield _rt_case(
        "a number twice",
        lambda: make_rtstruct(plain_contours(), names=((1, "one"), (2, "two"), (3, "three"), (3, "four"))),
        {"one": WHOLE["one"], "two": WHOLE["two"], "four": WHOLE["three"]},
        "number 3",
    )
    yield _rt_case(
        "outlines of a structure in two places", lambda: edited(make_rtstruct(plain_contours()), _split_one)
    )
    yield _rt_case(
        "in cm",
        lambda: make_rtstruct(
            {
                n: [contour([[v / 10 for v in p] for p in outline(*b)]) for b in boxes]
                for n, boxes in BOXES.items()
            }
        ),
        None,
    )
    yield _rt_case(
        "left and right swapped",
        lambda: make_rtstruct(
            {
                n: [contour([[-x, y, z] for x, y, z in outline(*b)]) for b in boxes]
                for n, boxes in BOXES.items()
            }
        ),
        None,
    )
    yield _rt_case(
        "no structures", lambda: make_rtstruct(plain_contours(), StructureSetROISequence=None), None
    )
    yield _rt_case("no outlines", lambda: make_rtstruct(plain_contours(), ROIContourSequence=None), None)
    yield _rt_case(
        "a CT's class",
        lambda: make_rtstruct(plain_contours(), SOPClassUID=CTImageStorage),
        None,
        "not a DICOM SEG or RTSTRUCT",
    )
    for cut in (7, 150, 900):
        yield _rt_case(f"cut off by {cut}", lambda: make_rtstruct(plain_contours()), None, cut=cut)
    for charset, (text, raw) in TEXTS.items():
        yield _rt_case(
            f"names in {charset}",
            lambda charset=charset, raw=raw: make_rtstruct(
                plain_contours(),
                names=((1, raw), (2, b"two"), (3, b"three")),
                charset=["", charset] if "2022" in charset else charset,
            ),
            {text: WHOLE["one"], "two": WHOLE["two"], "three": WHOLE["three"]},
        )


def _split_one(dataset: Dataset) -> None:
    first = dataset.ROIContourSequence[0]
    second = copy.deepcopy(first)
    first.ContourSequence = first.ContourSequence[:1]
    second.ContourSequence = second.ContourSequence[1:]
    dataset.ROIContourSequence.append(second)
