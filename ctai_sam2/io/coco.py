"""Masks as COCO JSON, written and read.

Each axial slice with a mask becomes an image entry, each mask on it an
annotation. Run lengths (the default) are exact; polygons run along the edges
between pixels, holes joined by a keyhole. COCO counts from the corner of the
first pixel, this package from its centre: half a pixel lies between them.

COCO knows no patient space. Entries therefore carry, under ``ctai_sam2``, the
slice's index, spacing and affine, which are checked when read back; files of
other programs are taken by their image's size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, GeometryError, InputError
from ctai_sam2.files.atomic import write_json
from ctai_sam2.files.folders import read_file
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.image.contours import Polygon, mask_to_polygons, polygon_to_keyhole, polygons_to_mask
from ctai_sam2.image.masks import mask_to_box_xyxy, mask_to_rle, rle_to_mask
from ctai_sam2.io.grids import checked_mask, same_places
from ctai_sam2.io.imported_masks import ImportedMasks
from ctai_sam2.io.structure_terms import NO_CODES, Authorship, add_name, checked_label
from ctai_sam2.types import CTSlice, CTVolume, Mask

_ROUNDING_PX = 1.0
"""Corners less than this beyond the image's edge are on it."""


def write_coco(
    path: str | os.PathLike[str],
    masks: Mapping[str, ArrayLike],
    of: CTSlice | CTVolume,
    *,
    encoding: Literal["rle", "polygon"] = "rle",
    authorship: Authorship | None = None,
    description: str = "Body composition at L3",
) -> Path:
    """Write masks as COCO JSON; returns the path.

    Parameters
    ----------
    path : path-like
        Ending in ``.json``.
    masks : mapping of str to array_like, shape (H, W) or (D, H, W)
        By structure; they may overlap.
    of : CTSlice or CTVolume
        What they were drawn on. Of a volume, the slices with a mask are written.
    encoding : {"rle", "polygon"}
        Uncompressed run lengths, or lists of corners.
    authorship : Authorship, optional
        Who made the masks; by hand when omitted.
    description : str
        For the file's ``info``; it must not identify a person.

    Raises
    ------
    InputError
        If there is no mask, all are empty, a shape differs or the encoding is unknown.
    StorageError
        If it cannot be written.

    Notes
    -----
    https://cocodataset.org/#format-data. Areas are in pixels, as COCO has them.
    """
    if encoding not in ("rle", "polygon"):
        raise InputError("COCO masks are rle or polygon", received=str(encoding)[:40])
    if not masks:
        raise InputError("there is no mask to export")
    checked = {
        checked_label(name): checked_mask(mask, of, name=f"the mask {name}") for name, mask in masks.items()
    }
    if not any(mask.any() for mask in checked.values()):
        raise InputError("all masks are empty, so there is nothing to annotate")
    author = authorship or Authorship()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (ct, on_slice) in enumerate(_slices_with_masks(checked, of), start=1):
        images.append(_image_entry(image_id, ct))
        for category, mask in enumerate(on_slice, start=1):
            box = mask_to_box_xyxy(mask)
            if box is None:
                continue
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": _encode(mask, encoding),
                    "area": int(mask.sum()),
                    "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                    "iscrowd": 0,
                }
            )
    model = author.model
    content = {
        "info": {
            "description": description,
            "version": __version__,
            "contributor": "ctai-sam2",
            "ctai_sam2": {
                "made_by": author.made_by,
                "model": None if model is None else model.name,
                "weights_sha256": None if model is None else model.weights_sha256,
            },
        },
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "body composition"}
            for number, name in enumerate(checked, start=1)
        ],
    }
    return write_json(path, content)


def read_coco(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    *,
    image: str | int | None = None,
) -> ImportedMasks:
    """Read COCO JSON as masks on a slice or volume.

    Annotations of one category on one image are united. One that is damaged, has no outline, or whose image
    or category is not listed is left out alone, with a note.

    Parameters
    ----------
    path : path-like
        A file by this package or another program; run lengths, compressed or not, or polygons.
    of : CTSlice or CTVolume
        What it was drawn on. For a volume, entries must say which slice they belong to.
    image : str or int, optional
        ``file_name`` or ``id`` of the image to take, for a slice; needed where several fit.

    Raises
    ------
    InputError
        If the file cannot be read or is no COCO, or no image or several fit.
    GeometryError
        If the entry says that it lies elsewhere in the patient.
    """
    path = Path(path)
    content = _load(path)
    notes: list[str] = []
    try:
        categories = _categories(content["categories"], notes)
        chosen = _choose_images(path, content["images"], of, image)
        known_images = {int(entry["id"]) for entry in content["images"]}
    except CtaiError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path.name} does not follow the COCO format ({type(error).__name__})",
            hint="Export it as COCO instance segmentation.",
        ) from error
    names = list(categories.values())
    shape = of.shape_hw if isinstance(of, CTSlice) else of.shape_zyx
    result = {name: np.zeros(shape, dtype=np.bool_) for name in names}
    left_out = _LeftOut()
    united: dict[tuple[str, int | None], int] = {}
    drawn: set[str] = set()
    for annotation in content["annotations"]:
        try:
            image_id, category_id = int(annotation["image_id"]), int(annotation["category_id"])
        except (KeyError, TypeError, ValueError, OverflowError):
            left_out.add("annotations without an image or a category")
            continue
        if image_id not in known_images:
            left_out.add("annotations of an image that is not listed")
            continue
        if image_id not in chosen:
            continue
        if category_id not in categories:
            left_out.add(f"annotations of category {category_id}, which is not listed")
            continue
        name = categories[category_id]
        place = chosen[image_id]
        target = result[name] if place is None else result[name][place]
        mask = _decode(annotation, (target.shape[0], target.shape[1]), left_out, name)
        if mask is None:
            continue
        if (target & mask).any():
            united[name, place] = united.get((name, place), 0) + 1
        target |= mask
        drawn.add(name)
    notes += left_out.notes()
    for name in dict.fromkeys(name for name, _ in united):
        number = sum(count for (one, _), count in united.items() if one == name)
        notes.append(f"{name}: {number} overlapping {'annotation' if number == 1 else 'annotations'} united")
    # Of a structure whose every annotation was left out an empty mask would say that there is nothing.
    gone = [name for name in names if name in left_out.structures and name not in drawn]
    if gone and len(gone) == len(names):
        raise InputError(
            f"{path.name} does not follow the COCO format: nothing of {', '.join(gone)} can be read",
            received="; ".join(left_out.notes())[:300],
            hint="Export it again as COCO instance segmentation.",
        )
    return ImportedMasks({name: mask for name, mask in result.items() if name not in gone}, warnings=notes)


class _LeftOut:
    """Counts what cannot be read, by reason, and whose masks it was."""

    def __init__(self) -> None:
        self.structures: set[str] = set()
        self._counts: dict[str, int] = {}
        self._cut: dict[str, int] = {}

    def add_cut(self, structure: str) -> None:
        """Count a polygon that was cut off at the image's edge."""
        self._cut[structure] = self._cut.get(structure, 0) + 1

    def add(self, reason: str, structure: str | None = None) -> None:
        """Count one more."""
        key = reason if structure is None else f"{reason} of {structure}"
        self._counts[key] = self._counts.get(key, 0) + 1
        if structure is not None:
            self.structures.add(structure)

    def notes(self) -> list[str]:
        """Say how many of what were left out or cut."""
        notes = [f"{count} {reason} left out" for reason, count in self._counts.items()]
        return notes + [
            f"{name}: {count} polygons reach beyond the image and were cut at its edge"
            for name, count in self._cut.items()
        ]


def _categories(entries: list[Any], notes: list[str]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for entry in entries:
        add_name(categories, int(entry["id"]), str(entry["name"]), NO_CODES, "categories", notes)
    return categories


def _slices_with_masks(
    masks: Mapping[str, Mask], of: CTSlice | CTVolume
) -> Iterator[tuple[CTSlice, list[Mask]]]:
    if isinstance(of, CTSlice):
        yield of, list(masks.values())
        return
    for z in range(of.shape_zyx[0]):
        on_slice = [mask[z] for mask in masks.values()]
        if any(mask.any() for mask in on_slice):
            yield of.axial(z), on_slice


def _image_entry(image_id: int, ct: CTSlice) -> dict[str, Any]:
    height, width = ct.shape_hw
    name = f"{ct.plane}_{ct.index:04d}.png" if ct.index is not None else f"{ct.plane}.png"
    return {
        "id": image_id,
        "width": width,
        "height": height,
        "file_name": name,
        "ctai_sam2": {
            "plane": ct.plane,
            "slice_index": ct.index,
            "spacing_mm": list(ct.spacing_mm),
            "affine_lps": None if ct.affine is None else np.asarray(ct.affine).tolist(),
        },
    }


def _encode(mask: Mask, encoding: str) -> Any:
    if encoding == "rle":
        return mask_to_rle(mask)
    # COCO's origin is the first pixel's corner.
    return [(polygon_to_keyhole(polygon) + 0.5).ravel().tolist() for polygon in mask_to_polygons(mask)]


def _decode(
    annotation: Mapping[str, Any], shape_hw: tuple[int, int], left_out: _LeftOut, name: str
) -> Mask | None:
    """Mask of an annotation; None, counted with the reason, where nothing of it can be read."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        left_out.add("annotations without an outline (boxes are no masks)", name)
        return None
    if isinstance(segmentation, list):
        if all(isinstance(value, (int, float)) for value in segmentation):
            # One polygon without the list around it, as some programs write.
            segmentation = [segmentation]
        polygons = []
        for ring in segmentation:
            polygon = _polygon_of(ring)
            if polygon is None:
                left_out.add("damaged polygons", name)
                continue
            beyond = _reach_beyond(polygon, shape_hw)
            if beyond == "all":
                left_out.add("polygons outside of the image", name)
                continue
            if beyond == "part":
                left_out.add_cut(name)
            polygons.append(polygon)
        mask = polygons_to_mask(polygons, shape_hw) if polygons else None
        if mask is not None and not mask.any():
            # Corners from 0 to 1, in shares of the image, all lie in its first pixel.
            left_out.add("annotations that enclose no pixel (are their corners in pixels?)", name)
            return None
        return mask
    try:
        size = [int(side) for side in segmentation["size"]]
        if size != list(shape_hw):
            left_out.add("run lengths of another size than the image", name)
            return None
        counts = segmentation["counts"]
        if isinstance(counts, str):
            counts = _expand_counts(counts)
        return rle_to_mask({"size": size, "counts": counts})
    except (CtaiError, KeyError, TypeError, ValueError, IndexError, OverflowError):
        left_out.add("damaged run lengths", name)
        return None


def _reach_beyond(polygon: Polygon, shape_hw: tuple[int, int]) -> Literal["all", "part"] | None:
    """Tell whether a polygon lies outside of the image, in part or all of it; rounding does not count."""
    low, high = polygon.exterior_xy.min(axis=0), polygon.exterior_xy.max(axis=0)
    edge = np.array([shape_hw[1], shape_hw[0]]) - 0.5
    if (high <= -0.5).any() or (low >= edge).any():
        return "all"
    return "part" if (low < -0.5 - _ROUNDING_PX).any() or (high > edge + _ROUNDING_PX).any() else None


def _polygon_of(ring: Any) -> Polygon | None:
    try:
        corners = np.asarray(ring, dtype=np.float64).reshape(-1, 2) - 0.5
        return Polygon(exterior_xy=corners)
    except (CtaiError, TypeError, ValueError, OverflowError):
        return None


def _expand_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed text.

    Each number is written in groups of five bits, low ones first, as characters from 48 on; a sixth bit
    says that more follow, the last group's fifth bit is the sign. From the third count on it is the
    difference to the count before the last.
    """
    counts: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            group = ord(text[position]) - 48
            if not 0 <= group < 64:
                raise ValueError
            value |= (group & 31) << shift
            shift += 5
            position += 1
            more = bool(group & 32)
            if not more and group & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _load(path: Path) -> dict[str, Any]:
    data = read_file(path)
    try:
        content = parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise InputError(
            f"{path.name} is not readable JSON", hint="It may be truncated; export it again."
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise InputError(
            f"{path.name} is not COCO: it needs lists of images, annotations and categories",
            hint="Export it as COCO instance segmentation.",
        )
    return content


def _choose_images(
    path: Path, entries: list[Any], of: CTSlice | CTVolume, image: str | int | None
) -> dict[int, int | None]:
    """Slice index (None for a slice) by id of the images that belong to what was drawn on."""
    if isinstance(of, CTVolume):
        chosen: dict[int, int | None] = {}
        for entry in entries:
            place = (entry.get("ctai_sam2") or {}).get("slice_index")
            if place is None or (entry.get("ctai_sam2") or {}).get("plane") != "axial":
                raise InputError(
                    f"{path.name} does not say which slices its images are",
                    hint="Import image by image onto slices.",
                )
            _require_same_place(path, entry, of.axial(int(place)))
            chosen[int(entry["id"])] = int(place)
        if not chosen:
            raise InputError(f"{path.name} holds no image")
        return chosen
    fitting = entries
    if image is not None:
        fitting = [
            entry for entry in entries if str(image) in (str(entry.get("file_name")), str(entry["id"]))
        ]
    elif len(entries) > 1:
        fitting = [entry for entry in entries if _says_same_slice(entry, of)]
    if len(fitting) != 1:
        listed = ", ".join(str(entry.get("file_name", entry["id"])) for entry in entries[:5])
        raise InputError(
            f"{len(fitting) or 'no'} images of {path.name} fit the slice",
            received=f"{len(entries)} images: {listed}"[:300],
            hint="Say which image by its file name or id (image=, --image).",
        )
    _require_same_place(path, fitting[0], of)
    return {int(fitting[0]["id"]): None}


def _says_same_slice(entry: Mapping[str, Any], of: CTSlice) -> bool:
    affine = _affine_of(entry)
    if affine is None or of.affine is None:
        return False
    # How thick a slice is says nothing of where its pixels lie.
    affine[:3, 2] = of.affine[:3, 2]
    return same_places(of.affine, affine, (1, *of.shape_hw))


def _require_same_place(path: Path, entry: Mapping[str, Any], of: CTSlice) -> None:
    size = (int(entry["height"]), int(entry["width"]))
    if size != of.shape_hw:
        raise InputError(
            f"an image of {path.name} has another size than the slice",
            received=f"{size} for {of.shape_hw}",
            hint="Choose the slice it was drawn on.",
        )
    if _affine_of(entry) is not None and of.affine is not None and not _says_same_slice(entry, of):
        raise GeometryError(
            f"an image of {path.name} lies elsewhere in the patient than the slice",
            hint="Choose the slice and series it was drawn on.",
        )


def _affine_of(entry: Mapping[str, Any]) -> NDArray[np.float64] | None:
    stated = (entry.get("ctai_sam2") or {}).get("affine_lps")
    return None if stated is None else np.array(stated, dtype=np.float64).reshape(4, 4)
