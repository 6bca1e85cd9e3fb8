"""Everything the package writes, as numbered versions: what writes one, and what reads which one is there."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_files import small_volume
from ctai_sam2.cohort.case_record import CaseRecord, read_case_record, write_case_record
from ctai_sam2.cohort.corrections import add_reading, read_correction
from ctai_sam2.cohort.predictions import CasePredictions, read_predictions, write_predictions
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.errors import WeightsMissing
from ctai_sam2.exchange import export_masks, import_masks
from ctai_sam2.files.atomic import write_table_csv
from ctai_sam2.io import read_study, write_dicom_series, write_volume_nifti
from ctai_sam2.io.source_images import SourceImages, find_source_images
from ctai_sam2.journal.annotation_journal import AnnotationJournal
from ctai_sam2.measure.definitions import TISSUE_DEFINITIONS, load_definitions, save_definitions
from ctai_sam2.models.bundle import export_bundle, import_bundle
from ctai_sam2.models.download import download_checkpoint
from ctai_sam2.models.registry import Checkpoint, ModelStore
from ctai_sam2.types import CTVolume


@dataclass(frozen=True, kw_only=True)
class Writer:
    """What writes a version of something into a folder, numbered from 1, and what reads which one is there.

    ``read`` returns None where there is nothing yet, and raises where anything is half-written.
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], int | None]


def _write_record(folder: Path, version: int) -> None:
    write_case_record(folder / "a.json", CaseRecord(case_id="a", status="failed", key=str(version)))


def _read_record(folder: Path) -> int | None:
    record = read_case_record(folder / "a.json")
    return None if record is None else int(record.key)


def _write_table(folder: Path, version: int) -> None:
    write_table_csv(folder / "a.csv", [{"case_id": row, "n": version} for row in range(30)])


def _read_table(folder: Path) -> int | None:
    path = folder / "a.csv"
    if not path.exists():
        return None
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert (header, len(lines)) == ("case_id,n", 30)
    (version,) = {int(line.rpartition(",")[2]) for line in lines}
    return version


def _mask(version: int) -> np.ndarray[Any, Any]:
    """Write a number as pixels."""
    bits = np.unpackbits(np.array([version], ">u4").view(np.uint8))
    return np.pad(bits, (0, 40)).reshape(9, 8).astype(bool)


def _version_of(mask: np.ndarray[Any, Any]) -> int:
    assert not mask.ravel()[32:].any()
    return int(np.packbits(mask.ravel()[:32]).view(">u4")[0])


def _write_reading(folder: Path, version: int) -> None:
    masks = {"muscle": _mask(version)}
    add_reading(CohortStore(folder), "a", slice_sha256="0" * 64, who="R", what=str(version), masks=masks)


def _read_reading(folder: Path) -> int | None:
    correction = read_correction(CohortStore(folder), "a")
    if correction is None:
        return None
    version = _version_of(correction.masks["muscle"])
    said = [int(entry.what) for entry in correction.entries]
    assert said == sorted(said)
    assert set(said) == set(range(said[0], version + 1)), "an earlier reading is lost"
    return version


def _write_predictions(folder: Path, version: int) -> None:
    write_predictions(
        folder / "a.npz",
        CasePredictions(ct_slice=small_volume().axial(1), axial_index=version, predictions={}),
    )


def _read_predictions(folder: Path) -> int | None:
    path = folder / "a.npz"
    return read_predictions(path).axial_index if path.exists() else None


def _write_export(name: str) -> Callable[[Path, int], object]:
    def write(folder: Path, version: int) -> object:
        mask = np.zeros((3, 9, 8), bool)
        mask[1] = _mask(version)
        other = np.zeros_like(mask)
        other[2] = True
        # Which label is whose depends on the version: a table of another one would name the wrong masks.
        masks = {"muscle": mask, "sat": other} if version % 2 else {"sat": other, "muscle": mask}
        return export_masks(masks, small_volume(), folder / name)

    return write


def _read_export(name: str) -> Callable[[Path], int | None]:
    def read(folder: Path) -> int | None:
        path = folder / name
        if not path.exists():
            return None
        masks = import_masks(path, small_volume())
        # Killed between two moves, an image may lack its names: it then says so, and names nothing wrongly.
        mask = masks["muscle"] if "muscle" in masks else min(masks.values(), key=lambda one: one[2].any())
        return _version_of(mask[1])

    return read


def _own_folder() -> Path:
    """Make a folder that lives as long as this process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _rectangles() -> list[tuple[slice, slice]]:
    """List all rectangles of a slice: a number that outlines keep exactly."""
    rows, columns = small_volume().shape_zyx[1:]
    spans = [[slice(a, b) for a in range(size) for b in range(a + 1, size + 1)] for size in (rows, columns)]
    return [(row, column) for row in spans[0] for column in spans[1]]


@functools.cache
def _shown_series() -> tuple[CTVolume, SourceImages]:
    """Make a series on disk that masks can refer to."""
    folder = _own_folder()
    write_dicom_series(folder, small_volume())
    volume = read_study(folder)
    assert isinstance(volume, CTVolume)
    return volume, find_source_images(folder)


def _write_dicom_masks(kind: str) -> Callable[[Path, int], object]:
    def write(folder: Path, version: int) -> object:
        volume, source = _shown_series()
        mask = np.zeros(volume.shape_zyx, bool)
        mask[(1, *_rectangles()[version])] = True
        return export_masks({"muscle": mask}, volume, folder / "a.dcm", format=kind, source=source)

    return write


def _read_dicom_masks(folder: Path) -> int | None:
    path = folder / "a.dcm"
    if not path.exists():
        return None
    (mask,) = import_masks(path, _shown_series()[0]).values()
    rows, columns = (np.flatnonzero(mask[1].any(axis=axis)) for axis in (1, 0))
    return _rectangles().index((slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)))


def _weights(version: int) -> bytes:
    return b"%d;" % version * 99


class _Mirror(BaseHTTPRequestHandler):
    """Serves version n of the checkpoint under /n/."""

    def do_GET(self) -> None:
        content = _weights(int(self.path.split("/")[1]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@functools.cache
def _mirror(_: int) -> str:
    """Start a mirror for this process, which ends with it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def _store(folder: Path) -> ModelStore:
    known = Checkpoint(
        name="a", file_name="a.pt", config="sam2_ct_nano", licence="none", source="here", url="http://none/"
    )
    return ModelStore(folder / "models", checkpoints=[known])


def _download(folder: Path, version: int) -> object:
    digest = hashlib.sha256(_weights(version)).hexdigest()
    mirror = f"{_mirror(os.getpid())}/{version}"
    return download_checkpoint("a", _store(folder), sha256=digest, mirror_url=mirror, attempts=1)


def _read_weights(folder: Path) -> int | None:
    store = _store(folder)
    try:
        store.verify("a")
    except WeightsMissing:
        return None
    content = store.locate("a").read_bytes()
    version = int(content.partition(b";")[0])
    assert content == _weights(version)
    return version


@functools.cache
def _filled_store(version: int) -> ModelStore:
    store = _store(_own_folder())
    (store.make_folder() / "a.pt").write_bytes(_weights(version))
    return store


def _write_bundle(folder: Path, version: int) -> object:
    return export_bundle(["a"], _filled_store(version), folder / "a.zip")


@functools.cache
def _bundle_of(version: int) -> Path:
    return export_bundle(["a"], _filled_store(version), _own_folder() / "a.zip")


def _import_bundle(folder: Path, version: int) -> object:
    return import_bundle(_bundle_of(version), _store(folder))


def _read_bundle(folder: Path) -> int | None:
    if not (folder / "a.zip").exists():
        return None
    with tempfile.TemporaryDirectory() as elsewhere:
        import_bundle(folder / "a.zip", _store(Path(elsewhere)))
        return _read_weights(Path(elsewhere))


def _write_series(folder: Path, version: int) -> None:
    shutil.rmtree(folder / f"s{version}", ignore_errors=True)
    write_dicom_series(folder / f"s{version}", small_volume())


@functools.cache
def _series() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in write_dicom_series(folder, small_volume())}


def _read_series(folder: Path) -> int | None:
    found = [place for place in folder.glob("s*") if any(place.glob("*.dcm"))]
    for place in found:
        assert {path.name: path.read_bytes() for path in place.glob("*.dcm")} == _series()
    return max((int(place.name[1:]) for place in found), default=None)


def _write_volume(folder: Path, version: int) -> None:
    volume = small_volume()
    changed = CTVolume(hu_zyx=volume.hu_zyx + version, affine=volume.affine)
    write_volume_nifti(folder / "a.nii.gz", changed)


def _read_volume(folder: Path) -> int | None:
    path = folder / "a.nii.gz"
    if not path.exists():
        return None
    (version,) = np.unique(read_study(path).hu_zyx - small_volume().hu_zyx)  # type: ignore[union-attr]
    return int(version)


def _write_definitions(folder: Path, version: int) -> None:
    save_definitions(list(TISSUE_DEFINITIONS.values())[version - 1], folder / "a.json")


def _read_definitions(folder: Path) -> int | None:
    path = folder / "a.json"
    return list(TISSUE_DEFINITIONS.values()).index(load_definitions(path)) + 1 if path.exists() else None


def _write_journal(folder: Path, version: int) -> None:
    with AnnotationJournal.open(folder / "a.jsonl", small_volume().axial(1)) as journal:
        journal.append({"type": "version", "number": version})


def _compact_journal(folder: Path, version: int) -> None:
    with AnnotationJournal.open(folder / "a.jsonl", small_volume().axial(1)) as journal:
        if version % 2 == 0:
            journal.compact({"number": version})
        else:
            journal.append({"type": "version", "number": version})


def _read_journal(folder: Path) -> int | None:
    events = AnnotationJournal.peek(folder / "a.jsonl", small_volume().axial(1))
    numbers = [int(event.get("number") or event["state"]["number"]) for event in events]
    assert sorted(numbers) == numbers
    return numbers[-1] if numbers else None


WRITERS = {
    "record": Writer(write=_write_record, read=_read_record),
    "table": Writer(write=_write_table, read=_read_table),
    "reading": Writer(write=_write_reading, read=_read_reading),
    "predictions": Writer(write=_write_predictions, read=_read_predictions),
    "label image": Writer(write=_write_export("a.nii.gz"), read=_read_export("a.nii.gz")),
    "COCO": Writer(write=_write_export("a.json"), read=_read_export("a.json")),
    "DICOM series": Writer(write=_write_series, read=_read_series),
    "volume": Writer(write=_write_volume, read=_read_volume),
    "SEG": Writer(write=_write_dicom_masks("seg"), read=_read_dicom_masks),
    "RTSTRUCT": Writer(write=_write_dicom_masks("rtstruct"), read=_read_dicom_masks),
    "download": Writer(write=_download, read=_read_weights),
    "bundle": Writer(write=_write_bundle, read=_read_bundle),
    "unpacked bundle": Writer(write=_import_bundle, read=_read_weights),
    "definitions": Writer(write=_write_definitions, read=_read_definitions),
    "journal": Writer(write=_write_journal, read=_read_journal),
    "compacted journal": Writer(write=_compact_journal, read=_read_journal),
}
