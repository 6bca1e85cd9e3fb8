"""Masks with tables of their labels, and COCO files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from tests.robustness.mask_case import LABELS, NAMES, NUMBERED, SHAPE_ZYX, WHOLE, MaskCase, bytes_of, image_of


def tables() -> Iterator[MaskCase]:
    itksnap = '# comment\n0 0 0 0 0 0 0 "Clear Label"\n' + "".join(
        f'{k} 255 0 0 1 1 1 "{name}"\n' for k, name in NAMES.items()
    )
    slicer = "# Color table file\n0 background 0 0 0 0\n" + "".join(
        f"{k} {name} 10 20 30 255\n" for k, name in NAMES.items()
    )
    numbered = {str(k): name for k, name in NAMES.items()}
    good = (
        (".labels.json", json.dumps({"labels": numbered})),
        (".json", json.dumps(numbered)),
        (".json", json.dumps({"labels": {"background": 0, **{name: k for k, name in NAMES.items()}}})),
        (".json", "\ufeff" + json.dumps(numbered)),
        (".txt", itksnap),
        (".label", itksnap),
        (".ctbl", slicer),
        (".txt", slicer),
        (".tsv", "index\tname\n" + "".join(f"{k}\t{name}\n" for k, name in NAMES.items())),
    )
    image = image_of(LABELS.transpose(2, 1, 0))
    for number, (ending, text) in enumerate(good):
        yield MaskCase(
            name=f"table {number} {ending}", write=_with_table(image, ending, text), expected=WHOLE
        )
    partly = json.dumps({"labels": {"1": "one", "2": "two"}})
    expected = {"one": WHOLE["one"], "two": WHOLE["two"], "label_3": WHOLE["three"]}
    yield MaskCase(
        name="a table that lacks a label",
        write=_with_table(image, ".labels.json", partly),
        expected=expected,
        said="no name for label_3",
    )
    more = json.dumps({"labels": {**numbered, "9": "nine"}})
    yield MaskCase(
        name="a table with more labels",
        write=_with_table(image, ".labels.json", more),
        expected={**WHOLE, "nine": np.zeros(SHAPE_ZYX, bool)},
    )
    for name, text in (
        ("no JSON", "{"),
        ("a list", "[1, 2]"),
        ("no labels", '{"labels": {}}'),
        ("names that are numbers", '{"labels": {"1": 1}}'),
        ("a label that is text", '{"labels": {"one": "one"}}'),
        ("a name of control characters", '{"labels": {"1": "a\\nb"}}'),
        ("deep nesting", "[" * 100_000),
    ):
        yield MaskCase(
            name=f"a table of {name}", write=_with_table(image, ".labels.json", text), expected=None
        )
    yield MaskCase(
        name="something else under the table's name",
        write=_with_table(image, ".json", '{"patient": "notes", "dose": 3}'),
        expected=NUMBERED,
    )


def _with_table(image: Any, ending: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nibabel.save(image, folder / "m.nii.gz")
        (folder / f"m{ending}").write_text(text, encoding="utf-8")
        return folder / "m.nii.gz"

    return write


def _box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """A rectangle whose corners lie between pixels, as COCO counts."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco() -> Iterator[MaskCase]:
    height, width = SHAPE_ZYX[1:]
    one, two = np.zeros((height, width), bool), np.zeros((height, width), bool)
    one[2:6, 1:4], two[7:10, 5:10] = True, True
    base: dict[str, Any] = {
        "images": [{"id": 1, "width": width, "height": height, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [_box(1, 2, 4, 6)]},
            {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [_box(5, 7, 10, 10)]},
        ],
    }

    def case(
        name: str,
        change: Callable[[dict[str, Any]], object],
        expected: Any,
        said: str | None = None,
        **options: Any,
    ) -> MaskCase:
        content = copy.deepcopy(base)
        change(content)
        text = json.dumps(content).encode(options.pop("encoding", "utf-8"))
        return MaskCase(
            name=f"coco: {name}",
            write=bytes_of(text, "m.json"),
            expected=expected,
            on_slice=True,
            said=said,
            options=options,
        )

    both = {"one": one, "two": two}
    only_one = {"one": one}

    def second(**changes: Any) -> Callable[[dict[str, Any]], object]:
        return lambda content: content["annotations"][1].update(changes)

    def more(**entry: Any) -> Callable[[dict[str, Any]], object]:
        return lambda content: content["annotations"].append(
            {"id": 3, "image_id": 1, "category_id": 2, **entry}
        )

    yield case("plain", lambda c: None, both)
    yield case("a byte order mark", lambda c: None, both, encoding="utf-8-sig")
    yield case(
        "ids as text",
        lambda c: [a.update(image_id="1", category_id=str(a["category_id"])) for a in c["annotations"]],
        both,
    )
    yield case(
        "an image by its id as text",
        lambda c: c["images"].append({"id": 2, "width": width, "height": height, "file_name": "b.png"}),
        both,
        image="1",
    )
    yield case(
        "an image by its name",
        lambda c: c["images"].append({"id": 2, "width": width, "height": height, "file_name": "b.png"}),
        both,
        image="a.png",
    )
    yield case(
        "no word which of two images",
        lambda c: c["images"].append({"id": 2, "width": width, "height": height, "file_name": "b.png"}),
        None,
    )
    for name, segmentation in (
        ("two corners", [[1, 1, 5, 5]]),
        ("an empty polygon", [[]]),
        ("no outline", None),
        ("an empty list", []),
        ("an odd number of values", [[1, 2, 3]]),
        ("a corner that is not a number", [[1, 2, float("nan"), 3, 4, 5]]),
        ("text", [["a", "b", "c", "d", "e", "f"]]),
        ("corners in shares of the image", [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4, 0.1, 0.4]]),
        ("run lengths of another size", {"size": [3, 3], "counts": [0, 9]}),
        ("run lengths that do not fill it", {"size": [height, width], "counts": [5, 7]}),
        ("negative run lengths", {"size": [height, width], "counts": [-1, height * width + 1]}),
        ("a huge size", {"size": [10**9, 10**9], "counts": [0, 10**18]}),
        ("broken compressed text", {"size": [height, width], "counts": "\u00ff"}),
        ("an object without counts", {"size": [height, width]}),
    ):
        yield case(name, second(segmentation=segmentation), only_one, "left out")
        yield case(name + " next to a good one", more(segmentation=segmentation), both, "left out")
    yield case(
        "an unlisted category", more(category_id=7, segmentation=[_box(0, 0, 2, 2)]), both, "category 7"
    )
    yield case("an unlisted image", more(image_id=9, segmentation=[_box(0, 0, 2, 2)]), both, "not listed")
    yield case("no category", lambda c: c["annotations"].append({"id": 3, "image_id": 1}), both, "left out")
    yield case("the same annotation twice", more(segmentation=[_box(5, 7, 10, 10)]), both, "united")
    yield case("a polygon without its list", second(segmentation=_box(5, 7, 10, 10)), both)
    yield case("two parts", second(segmentation=[_box(5, 7, 8, 10), _box(8, 7, 10, 10)]), both)
    yield case(
        "a category twice",
        lambda c: c["categories"][1].update(name="one"),
        {"one": one, "one_2": two},
        "twice",
    )
    yield case("another size", lambda c: c["images"][0].update(width=width + 1), None)
    for key in ("images", "annotations", "categories"):
        yield case(f"no {key}", lambda c, key=key: c.pop(key), None)
    yield case("images that are no list", lambda c: c.update(images={}), None)
    yield MaskCase(
        name="coco: deep nesting", write=bytes_of(b"[" * 100_000, "m.json"), expected=None, on_slice=True
    )
