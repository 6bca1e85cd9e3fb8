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

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2._version import __version__
from ctai_sam2.errors import CtaiError, GeometryError, InputError
from ctai_sam2.image.contours import Polygon, mask_to_polygons, polygon_to_keyhole, polygons_to_mask
from ctai_sam2.image.masks import mask_to_box_xyxy, mask_to_rle, rle_to_mask
from ctai_sam2.io.atomic import write_json
from ctai_sam2.io.grids import checked_mask, same_places
from ctai_sam2.io.structure_terms import Authorship, checked_label, structure_of
from ctai_sam2.types import CTSlice, CTVolume, Mask


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
        For the file's ``info``; name nobody in it.

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
    structures: Collection[str] | None = None,
) -> dict[str, Mask]:
    """Read COCO JSON as masks on a slice or volume.

    Annotations of one category on one image are united.

    Parameters
    ----------
    path : path-like
        A file by this package or another program; run lengths, compressed or not, or polygons.
    of : CTSlice or CTVolume
        What it was drawn on. For a volume, entries must say which slice they belong to.
    image : str or int, optional
        ``file_name`` or ``id`` of the image to take, for a slice; needed where several fit.
    structures : collection of str, optional
        Categories to read; all when omitted.

    Raises
    ------
    InputError
        If the file cannot be read or is no COCO, no image or several fit, or a structure is missing.
    GeometryError
        If the entry says that it lies elsewhere in the patient.
    """
    path = Path(path)
    content = _load(path)
    try:
        categories = {
            int(c["id"]): structure_of(str(c["name"]), None, None, None) for c in content["categories"]
        }
        chosen = _choose_images(path, content["images"], of, image)
        names = [name for name in dict.fromkeys(categories.values())]
        if structures is not None:
            missing = sorted(set(structures) - set(names))
            if missing:
                raise InputError(
                    "no such category", received=", ".join(missing), hint=f"There are {', '.join(names)}."
                )
            names = [name for name in names if name in structures]
        shape = of.shape_hw if isinstance(of, CTSlice) else of.shape_zyx
        result = {name: np.zeros(shape, dtype=np.bool_) for name in names}
        for annotation in content["annotations"]:
            name = categories.get(int(annotation["category_id"]), "")
            if int(annotation["image_id"]) in chosen and name in result:
                place = chosen[int(annotation["image_id"])]
                target = result[name] if place is None else result[name][place]
                target |= _decode(annotation["segmentation"], (target.shape[0], target.shape[1]))
    except CtaiError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path.name} does not follow the COCO format ({type(error).__name__})",
            hint="Export it as COCO instance segmentation.",
        ) from error
    return result


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


def _decode(segmentation: Any, shape_hw: tuple[int, int]) -> Mask:
    if isinstance(segmentation, list):
        rings = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) - 0.5 for ring in segmentation]
        return polygons_to_mask([Polygon(exterior_xy=ring) for ring in rings], shape_hw)
    counts = segmentation["counts"]
    if isinstance(counts, str):
        segmentation = {"size": segmentation["size"], "counts": _expand_counts(counts)}
    mask = rle_to_mask(segmentation)
    if mask.shape != shape_hw:
        raise InputError(
            "run lengths have another size than their image", received=f"{mask.shape} for {shape_hw}"
        )
    return mask


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path.name}", hint="Check the path.") from error
    except OSError as error:
        raise InputError(
            f"{path.name} cannot be opened", hint="Check the path and its permissions."
        ) from error
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
        fitting = [entry for entry in entries if image in (entry.get("file_name"), entry["id"])]
    elif len(entries) > 1:
        fitting = [entry for entry in entries if _says_same_slice(entry, of)]
    if len(fitting) != 1:
        listed = ", ".join(str(entry.get("file_name", entry["id"])) for entry in entries[:5])
        raise InputError(
            f"{len(fitting) or 'no'} images of {path.name} fit the slice",
            received=f"{len(entries)} images: {listed}"[:300],
            hint="Say which image by its file name or id.",
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
