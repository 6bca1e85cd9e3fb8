"""Targets of the fuzzer for files: images, masks, tables, and what the package itself stored.

Each reader gets a file of the name that its seed had, in a scratch folder. Of a result is checked what must
always hold: masks have the shape of the image, an image has pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_targets import mend_png
from ctai_sam2.types import CTVolume

Run = Callable[[bytes], None]

KEY_PARTS = {name: "0" * 64 for name in ("pixels", "prompt", "window", "model")} | {"code": "0"}


@dataclass(frozen=True, kw_only=True)
class FileTarget:
    """One kind of file: what makes the seeds in a folder, and the readers that get each input.

    ``mend`` makes an input's checksums right; it returns the input where there is nothing to mend.
    """

    write: Callable[[Path], list[Path]]
    readers: Callable[[Path], list[Callable[[Path], Any]]]
    mend: Callable[[bytes], bytes] = bytes

    def seeds(self, folder: Path) -> list[bytes]:
        """Make the seeds."""
        folder.mkdir(parents=True, exist_ok=True)
        return [path.read_bytes() for path in self.write(folder)]

    def make(self, folder: Path) -> Run:
        """Make the function that reads one input, in a folder of its own."""
        from ctai_sam2.errors import CtaiError

        for part in ("seeds", "input"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        names = sorted({path.name for path in self.write(folder / "seeds")})
        readers = self.readers(folder / "seeds")

        def read(data: bytes) -> None:
            for name in names:
                path = folder / "input" / name
                path.write_bytes(data)
                for reader in readers:
                    try:
                        reader(path)
                    except CtaiError as error:
                        if str(folder) in str(error):
                            raise AssertionError("a message names a folder") from error
                path.unlink(missing_ok=True)

        def run(data: bytes) -> None:
            read(data)
            mended = self.mend(data)
            if mended != data:
                read(mended)

        return run


def small_volume() -> CTVolume:
    """Make a volume in which every voxel differs from its mirror images."""
    from ctai_sam2.types import Acquisition

    affine = np.diag([0.8, 0.75, 2.5, 1.0])
    affine[:3, 3] = (-31.5, 12.25, -440.0)
    hu = np.random.default_rng(7).integers(-1024, 2000, (3, 9, 8)).astype(np.int16)
    return CTVolume(hu_zyx=hu, affine=affine, acquisition=Acquisition(slice_thickness_mm=2.5))


def small_masks() -> dict[str, Any]:
    """Make two masks that fit it."""
    masks = {name: np.zeros((3, 9, 8), bool) for name in ("psoas_left", "muscle")}
    masks["psoas_left"][1, 2:5, 1:4] = True
    masks["muscle"][:2, 5:8, 2:7] = True
    return masks


def _check_volume(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        volume = read(path)
        values = volume.hu_zyx if isinstance(volume, CTVolume) else volume.hu
        assert values.dtype == np.int16
        assert values.size

    return run


def _mask_readers(*, of_slice: bool = True) -> Callable[[Path], list[Callable[[Path], Any]]]:
    def make(_: Path) -> list[Callable[[Path], Any]]:
        from ctai_sam2.exchange import import_masks

        volume = small_volume()

        def onto(image: Any, shape: tuple[int, ...]) -> Callable[[Path], None]:
            def run(path: Path) -> None:
                for mask in import_masks(path, image).values():
                    assert mask.shape == shape
                    assert mask.dtype == np.bool_

            return run

        readers = [onto(volume, volume.shape_zyx)]
        return [*readers, onto(volume.axial(1), volume.shape_zyx[1:])] if of_slice else readers

    return make


def _write_dicom(folder: Path) -> list[Path]:
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    from ctai_sam2.io import write_dicom_series

    paths = write_dicom_series(folder / "series", small_volume())
    first = paths[0].read_bytes()
    (folder / "x.dcm").write_bytes(first)
    packed = folder / "packed"
    packed.mkdir(exist_ok=True)
    dataset = dcmread(io.BytesIO(first))
    dataset.compress(RLELossless)
    dataset.save_as(packed / "x.dcm")
    return [folder / "x.dcm", packed / "x.dcm"]


def _dicom_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.io import list_series, read_slice, read_study

    return [_check_volume(read_study), _check_volume(read_slice), lambda path: list_series(path.parent)]


def _write_nifti(folder: Path) -> list[Path]:
    from ctai_sam2.io import write_volume_nifti

    return [write_volume_nifti(folder / "x.nii", small_volume())]


def _write_nrrd(folder: Path) -> list[Path]:
    volume = small_volume()
    head = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 9 3\n"
        "space directions: (0.8,0,0) (0,0.75,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (-31.5,12.25,-440)\n\n"
    )
    (folder / "x.nrrd").write_bytes(head.encode() + volume.hu_zyx.astype("<i2").tobytes())
    return [folder / "x.nrrd"]


def _volume_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.io import read_study

    return [_check_volume(read_study)]


def _exported(name: str, **options: Any) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        from ctai_sam2.exchange import export_masks
        from ctai_sam2.io import write_dicom_series
        from ctai_sam2.io.source_images import find_source_images

        volume = small_volume()
        if name.endswith(".dcm"):
            from ctai_sam2.io import read_study

            write_dicom_series(folder / "source", volume)
            volume = read_study(folder / "source")  # type: ignore[assignment]
            options["source"] = find_source_images(folder / "source")
        export_masks(small_masks(), volume, folder / name, **options)
        return [folder / name]

    return write


def _write_label_png(folder: Path) -> list[Path]:
    from ctai_sam2.io.mask_png import write_label_png, write_mask_png

    masks = small_masks()
    labels = masks["psoas_left"][1].astype(np.uint8) + 2 * masks["muscle"][1]
    (folder / "labels").mkdir(exist_ok=True)
    return [
        write_mask_png(folder / "x.png", masks["muscle"][1]),
        write_label_png(folder / "labels" / "x.png", labels),
    ]


def _png_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.io.mask_pictures import read_label_picture, read_mask_png

    return [read_mask_png, read_label_picture, *_mask_readers()(_)[1:]]


def _write_tables(folder: Path) -> list[Path]:
    texts = (
        "case_id,path,mid_l3_index,l3_xy,height_m,weight_kg,sex,prompt_psoas_left,site\n"
        'P1,a.npz,12,"10,20",1.7,70,F,"point 3 4",A\nP2,b.npz,,,,,M,,B\n',
        "case_id;muscle_area_cm2;slice_index\nP1;120,5;12\nP2;98.25;13\n",
        '0 0 0 0 0 0 0 "Clear Label"\n1 255 0 0 1 1 1 "psoas_left"\n',
        '{"labels": {"1": "psoas_left", "2": "muscle"}}',
    )
    (folder / "x.csv").write_text(texts[0], encoding="utf-8")
    paths = [folder / "x.csv"]
    for number, text in enumerate(texts[1:]):
        place = folder / str(number) / "x.csv"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8")
        paths.append(place)
    return paths


def _table_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.agreement.readings import read_readings
    from ctai_sam2.cohort.case import parse_prompt
    from ctai_sam2.cohort.manifest import read_manifest
    from ctai_sam2.io.label_tables import read_label_table

    def prompt(path: Path) -> None:
        parse_prompt(path.read_bytes().decode("utf-8", "replace"))

    return [read_manifest, read_readings, read_label_table, prompt]


def _write_settings(folder: Path) -> list[Path]:
    from ctai_sam2.measure.definitions import TISSUE_DEFINITIONS, save_definitions

    save_definitions(next(iter(TISSUE_DEFINITIONS.values())), folder / "x.json")
    return [folder / "x.json"]


def _definition_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.measure.definitions import load_definitions
    from ctai_sam2.models.calibration import Calibration
    from ctai_sam2.segmentation.quality import read_trust

    def text(parse: Callable[[str], Any]) -> Callable[[Path], Any]:
        return lambda path: parse(path.read_bytes().decode("utf-8", "replace"))

    return [load_definitions, text(Calibration.from_json), text(read_trust)]


def _write_records(folder: Path) -> list[Path]:
    from ctai_sam2.cohort.case_record import CaseRecord, write_case_record
    from ctai_sam2.cohort.corrections import add_reading
    from ctai_sam2.cohort.store import CohortStore

    record = CaseRecord(
        case_id="x",
        status="done",
        key="k",
        seconds={"read": 0.1},
        row={"muscle_area_cm2": 120.5, "note": "a"},
    )
    write_case_record(folder / "x.json", record)
    store = CohortStore(folder / "out")
    add_reading(store, "x", slice_sha256="0" * 64, who="R1", masks={"muscle": small_masks()["muscle"][1]})
    return [folder / "x.json", store.correction_path("x")]


def _record_readers(folder: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.cohort.case_record import read_case_record
    from ctai_sam2.cohort.corrections import read_correction
    from ctai_sam2.cohort.store import CohortStore

    store = CohortStore(folder / "out")

    def correction(path: Path) -> None:
        os.replace(path, store.correction_path("x"))
        read_correction(store, "x")

    return [read_case_record, correction]


def _mend_zip(data: bytes) -> bytes:
    """Make the checksums of a zip file's members right where its own reader finds them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except Exception:  # what cannot be opened cannot be mended
        return data
    mended = bytearray(data)
    for member in members:
        try:
            with zipfile.ZipFile(io.BytesIO(bytes(mended))) as archive:
                found = next(one for one in archive.infolist() if one.filename == member.filename)
                stream: Any = archive.open(found)
                stream._expected_crc = None
                crc = zlib.crc32(stream.read(1 << 20))
        except Exception:
            continue
        old, new = member.CRC.to_bytes(4, "little"), crc.to_bytes(4, "little")
        mended = bytearray(bytes(mended).replace(old, new))
    return bytes(mended)


def _write_archives(folder: Path) -> list[Path]:
    from ctai_sam2.cohort.corrections import add_reading
    from ctai_sam2.cohort.predictions import CasePredictions, write_predictions
    from ctai_sam2.cohort.store import CohortStore

    volume = small_volume()
    masks = small_masks()
    case = CasePredictions(
        ct_slice=volume.axial(1),
        axial_index=1,
        predictions={"k": _prediction(masks["muscle"][1])},
        l3_mask=None,
        l3_slice=None,
        l3_certainty=None,
        l3_probability=None,
        l3_confidence=None,
        level_warnings=(),
    )
    np.savez(
        folder / "x.npz",
        image=volume.hu_zyx[1],
        spacing=np.ones(2),
        mask_muscle=masks["muscle"][1],
        meta=json.dumps({"plane": "axial"}),
    )
    store = CohortStore(folder / "out")
    add_reading(store, "x", slice_sha256="0" * 64, who="R1", masks={"muscle": masks["muscle"][1]})
    drawn = next(store.correction_path("x").parent.glob("*.zip"))
    (folder / "predictions").mkdir(exist_ok=True)
    return [folder / "x.npz", write_predictions(folder / "predictions" / "x.npz", case), drawn]


def _prediction(mask: Any) -> Any:
    from ctai_sam2.types import ModelIdentity, Prediction

    identity = ModelIdentity(
        name="m", weights_sha256="0" * 64, image_size=64, device="cpu", dtype="float32", code_version="0"
    )
    return Prediction(
        masks=np.stack([mask, ~mask]),
        scores=np.array([0.9, 0.1], np.float32),
        identity=identity,
        processing_time_ms=1.0,
        cached=False,
        backend="local",
    )


def _archive_readers(folder: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.cohort.corrections import read_correction
    from ctai_sam2.cohort.predictions import read_predictions
    from ctai_sam2.cohort.store import CohortStore
    from ctai_sam2.io import read_case_npz

    store = CohortStore(folder / "out")
    place = next(store.correction_path("x").parent.glob("*.zip"))

    def drawn(path: Path) -> None:
        if path.suffix == ".npz":
            place.write_bytes(path.read_bytes())
            for mask in getattr(read_correction(store, "x"), "masks", {}).values():
                assert mask.dtype == np.bool_

    return [read_case_npz, read_predictions, drawn]


def _write_cache(folder: Path) -> list[Path]:
    from ctai_sam2.models.cache_key import CacheKey
    from ctai_sam2.models.cache_store import encode_entry

    mask = small_masks()["muscle"][1]
    (folder / "x.json").write_bytes(encode_entry(CacheKey(**KEY_PARTS), _prediction(mask), 1.0))
    return [folder / "x.json"]


def _cache_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.models import cache_store
    from ctai_sam2.models.cache_key import CacheKey

    key = CacheKey(**KEY_PARTS)

    def entry(path: Path) -> None:
        found = cache_store.decode_entry(path.read_bytes(), key, (9, 8))
        if found is not None:
            assert found[1].masks.shape[1:] == (9, 8)

    return [entry, cache_store._read_metadata]


def _mend_cache(data: bytes) -> bytes:
    body = data.partition(b"\n")[2]
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _write_journal(folder: Path) -> list[Path]:
    from ctai_sam2.journal.annotation_journal import AnnotationJournal

    with AnnotationJournal.open(folder / "x.jsonl", small_volume().axial(1)) as journal:
        for number in range(4):
            journal.append({"type": "point", "x": number, "y": 2.5, "label": 1})
    return [folder / "x.jsonl"]


def _journal_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.journal.annotation_journal import AnnotationJournal

    ct_slice = small_volume().axial(1)

    def peek(path: Path) -> None:
        for event in AnnotationJournal.peek(path, ct_slice):
            assert isinstance(event, dict)

    return [peek]


def _mend_journal(data: bytes) -> bytes:
    """Give each line that is JSON the digest that it should have."""
    from ctai_sam2.journal.lines import FIRST_CHECK, encode_line

    lines, check = [], FIRST_CHECK
    for number, line in enumerate(data.split(b"\n")):
        try:
            mended, check = encode_line(number, json.loads(line)["event"], check)
            lines.append(mended.rstrip(b"\n"))
        except Exception:  # no line of a journal
            lines.append(line)
    return b"\n".join(lines)


def _write_weights(folder: Path) -> list[Path]:
    import safetensors.torch
    import torch

    state = {"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.float16)}
    safetensors.torch.save_file(state, folder / "x.safetensors", metadata={"format": "pt"})
    torch.save({"model": state}, folder / "x.pt")
    return [folder / "x.safetensors", folder / "x.pt"]


def _weight_readers(_: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.models.sam2_network import read_calibration, read_state_dict

    return [read_state_dict, read_calibration]


def _bundle_store(folder: Path) -> Any:
    from ctai_sam2.models.registry import Checkpoint, ModelStore

    folder.mkdir(exist_ok=True)
    known = Checkpoint(name="a", file_name="a.pt", config="sam2_ct_nano", licence="none", source="here")
    return ModelStore(folder, checkpoints=[known])


def _write_bundle(folder: Path) -> list[Path]:
    from ctai_sam2.models.bundle import export_bundle

    store = _bundle_store(folder / "store")
    (folder / "store" / "a.pt").write_bytes(b"weights" * 20)
    return [export_bundle(["a"], store, folder / "x.zip")]


def _bundle_readers(folder: Path) -> list[Callable[[Path], Any]]:
    from ctai_sam2.models.bundle import import_bundle

    store = _bundle_store(folder / "target")

    def unpack(path: Path) -> None:
        import_bundle(path, store)
        assert {one.name for one in store.folder.iterdir()} <= {"a.pt", "a.pt.sha256"}

    return [unpack]


FILE_TARGETS: dict[str, FileTarget] = {
    "dicom": FileTarget(write=_write_dicom, readers=_dicom_readers),
    "nifti": FileTarget(write=_write_nifti, readers=_volume_readers),
    "nrrd": FileTarget(write=_write_nrrd, readers=_volume_readers),
    "seg": FileTarget(write=_exported("x.dcm", format="seg"), readers=_mask_readers()),
    "rtstruct": FileTarget(write=_exported("x.dcm", format="rtstruct"), readers=_mask_readers()),
    "label-nifti": FileTarget(write=_exported("x.nii"), readers=_mask_readers()),
    "coco": FileTarget(write=_exported("x.json"), readers=_mask_readers()),
    "label-png": FileTarget(write=_write_label_png, readers=_png_readers, mend=mend_png),
    "tables": FileTarget(write=_write_tables, readers=_table_readers),
    "definitions": FileTarget(write=_write_settings, readers=_definition_readers),
    "records": FileTarget(write=_write_records, readers=_record_readers),
    "archives": FileTarget(write=_write_archives, readers=_archive_readers, mend=_mend_zip),
    "cache": FileTarget(write=_write_cache, readers=_cache_readers, mend=_mend_cache),
    "journal": FileTarget(write=_write_journal, readers=_journal_readers, mend=_mend_journal),
    "weights": FileTarget(write=_write_weights, readers=_weight_readers),
    "bundle": FileTarget(write=_write_bundle, readers=_bundle_readers, mend=_mend_zip),
}
