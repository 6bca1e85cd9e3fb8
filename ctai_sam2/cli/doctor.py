"""Checks of one machine, layer by layer, that name the layer which fails.

Each check imports what it examines itself, so that a broken layer is a line
of the report and not the end of it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctai_sam2 import __version__
from ctai_sam2.errors import CtaiError
from ctai_sam2.settings import Settings

Status = Literal["ok", "warn", "fail"]
Finding = tuple[Status, str, str]
"""Outcome of a check: status, what was found, and what to do about it."""

WIDGET_PACKAGES = ("jupyterlab", "ipywidgets", "ipycanvas")
LAB_EXTENSIONS = ("@jupyter-widgets/jupyterlab-manager", "ipycanvas")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report.

    Parameters
    ----------
    layer : str
        What was examined.
    status : {"ok", "warn", "fail"}
        ``warn``: something optional is missing; ``fail``: the main job will not work.
    detail : str
        What was found.
    hint : str
        What to do; empty where all is well.
    """

    layer: str
    status: Status
    detail: str
    hint: str = ""


def examine(settings: Settings) -> list[Check]:
    """Run every check, the lowest layer first; never raises."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _check_python),
        ("packages", _check_packages),
        ("torch", _check_torch),
        ("device", lambda: _check_device(settings)),
        ("sam2", _check_sam2),
        ("weights", lambda: _check_weights(settings)),
        ("engine", lambda: examine_engine(settings)),
        ("segmentation", _check_segmentation),
        ("cache", lambda: _check_cache(settings)),
        ("service", lambda: _check_service(settings)),
        ("widgets", _check_widgets),
    ]
    return [_guarded(layer, check) for layer, check in checks]


def _guarded(layer: str, check: Callable[[], Finding]) -> Check:
    try:
        status, detail, hint = check()
    except CtaiError as error:
        status, detail, hint = "fail", error.problem, error.hint or ""
    except Exception as error:  # a broken installation can raise anything, and that is the finding
        status, detail = "fail", f"{type(error).__name__}: {error}"
        hint = f"Reinstall what the layer '{layer}' needs: pip install --force-reinstall ctai-sam2."
    return Check(layer=layer, status=status, detail=detail, hint=hint)


def _check_python() -> Finding:
    system = f"{platform.system()} {platform.machine()}"
    detail = f"Python {platform.python_version()} on {system}, ctai_sam2 {__version__}"
    return "ok", detail, ""


def _check_packages() -> Finding:
    names = (
        "numpy",
        "scipy",
        "scikit-image",
        "pydicom",
        "pylibjpeg",
        "nibabel",
        "joblib",
        "requests",
        "pandas",
    )
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}"
    decoders = [n for n in ("imagecodecs", "pylibjpeg-openjpeg", "pylibjpeg-rle") if not _installed(n)]
    if decoders:
        return "warn", f"compressed DICOM needs {', '.join(decoders)}", f"pip install {' '.join(decoders)}"
    return "ok", ", ".join(found), ""


def _check_torch() -> Finding:
    import torch

    threads = torch.get_num_threads()
    noun = "thread" if threads == 1 else "threads"
    detail = f"torch {torch.__version__}, {threads} {noun}, {os.cpu_count()} processors"
    return "ok", detail, ""


def _check_device(settings: Settings) -> Finding:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    wanted = settings.device
    detail = f"SAM2_DEVICE={wanted}; here: {', '.join(found)}"
    if wanted != "auto" and not any(name.startswith(wanted.split(":")[0]) for name in found):
        return (
            "fail",
            detail,
            "Set SAM2_DEVICE=auto, or install the PyTorch build and driver for that device.",
        )
    return "ok", detail, ""


def _check_sam2() -> Finding:
    importlib.import_module("sam2.modeling.sam2_base")
    return "ok", f"sam2 {importlib.metadata.version('sam2')}", ""


def _check_weights(settings: Settings) -> Finding:
    from ctai_sam2.models.factory import is_checkpoint_file, open_store
    from ctai_sam2.models.registry import hash_file, require_digest

    path = settings.model_path
    if path is not None and is_checkpoint_file(path):
        open_store(settings).require_file(path, path.name)
        if settings.model_sha256 is not None:
            require_digest(hash_file(path), settings.model_sha256, path.name)
        return "ok", f"own checkpoint {path.name}", ""
    status = open_store(settings).verify(settings.model)
    return "ok", f"{settings.model}: {status.detail}", ""


def examine_engine(settings: Settings) -> Finding:
    """Say what computes the network; loads it where another engine than PyTorch is wished for."""
    from ctai_sam2.models.engine import is_installed
    from ctai_sam2.models.factory import open_local

    if settings.engine == "torch":
        there = "OpenVINO is installed" if is_installed() else "the extra fast-cpu is not installed"
        return "ok", f"PyTorch computes (SAM2_ENGINE=torch; {there})", ""
    with open_local(settings) as segmenter:
        choice = segmenter.engine
    if choice.refusal is not None:
        hint = "Set SAM2_ENGINE=torch, or install the extra: pip install 'ctai-sam2[fast-cpu]'."
        return "warn", f"PyTorch computes, OpenVINO was not taken: {choice.refusal}", hint
    if choice.least_iou is None:
        return "ok", f"PyTorch computes (SAM2_ENGINE={settings.engine})", ""
    detail = f"{choice.name} computes; least IoU with PyTorch's masks {choice.least_iou:.4f}"
    return "ok", detail, ""


def _check_segmentation() -> Finding:
    import numpy as np

    from ctai_sam2.measure.overlap import dice
    from ctai_sam2.models import open_segmenter
    from ctai_sam2.phantom import make_axial_slice, reference_parameters
    from ctai_sam2.segmentation import segment_structure
    from ctai_sam2.types import CTSlice

    phantom = make_axial_slice(reference_parameters(), level="L3", rng=np.random.default_rng(0))
    ct = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm)
    with open_segmenter("local") as segmenter:
        result = segment_structure(ct, "psoas_left", segmenter)
    found, truth = result.mask, phantom.masks["psoas_left"]
    overlap = dice(found, truth)
    detail = f"one click on a phantom's left psoas: Dice {overlap:.2f}"
    if result.prediction is not None:
        detail += f", {result.prediction.processing_time_ms:.0f} ms"
    if overlap < 0.5:
        hint = "The model runs but does not segment: verify the weights with ctai-sam2 models verify."
        return "fail", detail, hint
    return "ok", detail, ""


def _check_cache(settings: Settings) -> Finding:
    from ctai_sam2.models.factory import cache_folder

    folder = cache_folder(settings)
    hint = "Set SAM2_CACHE_DIR to a folder you may write to."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="doctor-"):
            pass
    except OSError as error:
        return "warn", f"not writable: {error.strerror}", hint
    free_gb = shutil.disk_usage(folder).free / 1e9
    detail = f"writable, {free_gb:.0f} GB free, entries live {settings.cache_expire_hours:g} h"
    if free_gb < 1:
        return "warn", detail, "Free some room or set SAM2_CACHE_DIR."
    return "ok", detail, ""


def _check_service(settings: Settings) -> Finding:
    from ctai_sam2.models import open_segmenter

    if not settings.service_urls:
        return "ok", "none configured (SAM2_SERVICE_URL is empty)", ""
    with open_segmenter("remote", settings) as remote:
        health = remote.health()
    hint = "Start the service, correct SAM2_SERVICE_URL, or leave it empty to work locally."
    return ("ok", health.detail, "") if health.available else ("warn", health.detail, hint)


def _check_widgets() -> Finding:
    missing = [name for name in WIDGET_PACKAGES if not _installed(name)]
    if missing:
        hint = 'pip install "ctai-sam2[jupyter]", then restart JupyterLab.'
        return "warn", f"the editors need {', '.join(missing)}", hint
    from jupyter_core.paths import jupyter_path

    absent = [
        n for n in LAB_EXTENSIONS if not any(Path(p, n).is_dir() for p in jupyter_path("labextensions"))
    ]
    if absent:
        hint = "Install ipywidgets and ipycanvas where JupyterLab itself runs, not only in the kernel."
        return "warn", f"JupyterLab of this environment lacks the extension {', '.join(absent)}", hint
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in WIDGET_PACKAGES)
    return "ok", versions, ""


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
