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
    checks: list[tuple[str, Callable[[], Check]]] = [
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


def _guarded(layer: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except CtaiError as error:
        return Check(layer=layer, status="fail", detail=error.problem, hint=error.hint or "")
    except Exception as error:  # a broken installation can raise anything, and that is the finding
        return Check(
            layer=layer,
            status="fail",
            detail=f"{type(error).__name__}: {error}",
            hint=f"Reinstall what the layer '{layer}' needs: pip install --force-reinstall ctai-sam2.",
        )


def _check_python() -> Check:
    system = f"{platform.system()} {platform.machine()}"
    detail = f"Python {platform.python_version()} on {system}, ctai_sam2 {__version__}"
    return Check(layer="python", status="ok", detail=detail)


def _check_packages() -> Check:
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
        return Check(
            layer="packages",
            status="fail",
            detail=f"missing: {', '.join(missing)}",
            hint=f"pip install {' '.join(missing)}",
        )
    decoders = [n for n in ("imagecodecs", "pylibjpeg-openjpeg", "pylibjpeg-rle") if not _installed(n)]
    if decoders:
        return Check(
            layer="packages",
            status="warn",
            detail=f"compressed DICOM needs {', '.join(decoders)}",
            hint=f"pip install {' '.join(decoders)}",
        )
    return Check(layer="packages", status="ok", detail=", ".join(found))


def _check_torch() -> Check:
    import torch

    detail = f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} processors"
    return Check(layer="torch", status="ok", detail=detail)


def _check_device(settings: Settings) -> Check:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    wanted = settings.device
    detail = f"SAM2_DEVICE={wanted}; here: {', '.join(found)}"
    if wanted != "auto" and not any(name.startswith(wanted.split(":")[0]) for name in found):
        return Check(
            layer="device",
            status="fail",
            detail=detail,
            hint="Set SAM2_DEVICE=auto, or install the PyTorch build and driver for that device.",
        )
    return Check(layer="device", status="ok", detail=detail)


def _check_sam2() -> Check:
    importlib.import_module("sam2.modeling.sam2_base")
    return Check(layer="sam2", status="ok", detail=f"sam2 {importlib.metadata.version('sam2')}")


def _check_weights(settings: Settings) -> Check:
    from ctai_sam2.models.factory import is_checkpoint_file, open_store
    from ctai_sam2.models.registry import hash_file, require_digest

    path = settings.model_path
    if path is not None and is_checkpoint_file(path):
        open_store(settings).require_file(path, path.name)
        if settings.model_sha256 is not None:
            require_digest(hash_file(path), settings.model_sha256, path.name)
        return Check(layer="weights", status="ok", detail=f"own checkpoint {path.name}")
    status = open_store(settings).verify(settings.model)
    return Check(layer="weights", status="ok", detail=f"{settings.model}: {status.detail}")


def examine_engine(settings: Settings) -> Check:
    """Say what computes the network; loads it where another engine than PyTorch is wished for."""
    from ctai_sam2.models.engine import is_installed
    from ctai_sam2.models.factory import open_local

    if settings.engine == "torch":
        there = "OpenVINO is installed" if is_installed() else "the extra fast-cpu is not installed"
        return Check(layer="engine", status="ok", detail=f"PyTorch computes (SAM2_ENGINE=torch; {there})")
    with open_local(settings) as segmenter:
        choice = segmenter.engine
    if choice.refusal is not None:
        return Check(
            layer="engine",
            status="warn",
            detail=f"PyTorch computes, OpenVINO was not taken: {choice.refusal}",
            hint="Set SAM2_ENGINE=torch, or install the extra: pip install 'ctai-sam2[fast-cpu]'.",
        )
    if choice.least_iou is None:
        return Check(layer="engine", status="ok", detail=f"PyTorch computes (SAM2_ENGINE={settings.engine})")
    detail = f"{choice.name} computes; least IoU with PyTorch's masks {choice.least_iou:.4f}"
    return Check(layer="engine", status="ok", detail=detail)


def _check_segmentation() -> Check:
    import numpy as np

    from ctai_sam2.models import open_segmenter
    from ctai_sam2.phantom import make_axial_slice, reference_parameters
    from ctai_sam2.segmentation import segment_structure
    from ctai_sam2.types import CTSlice

    phantom = make_axial_slice(reference_parameters(), level="L3", rng=np.random.default_rng(0))
    ct = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm)
    with open_segmenter("local") as segmenter:
        result = segment_structure(ct, "psoas_left", segmenter)
    found, truth = result.mask, phantom.masks["psoas_left"]
    dice = 2 * int((found & truth).sum()) / max(1, int(found.sum()) + int(truth.sum()))
    detail = f"one click on a phantom's left psoas: Dice {dice:.2f}"
    if result.prediction is not None:
        detail += f", {result.prediction.processing_time_ms:.0f} ms"
    if dice < 0.5:
        return Check(
            layer="segmentation",
            status="fail",
            detail=detail,
            hint="The model runs but does not segment: verify the weights with ctai-sam2 models verify.",
        )
    return Check(layer="segmentation", status="ok", detail=detail)


def _check_cache(settings: Settings) -> Check:
    from ctai_sam2.models.factory import cache_folder

    folder = cache_folder(settings)
    hint = "Set SAM2_CACHE_DIR to a folder you may write to."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="doctor-"):
            pass
    except OSError as error:
        return Check(layer="cache", status="warn", detail=f"not writable: {error.strerror}", hint=hint)
    free_gb = shutil.disk_usage(folder).free / 1e9
    detail = f"writable, {free_gb:.0f} GB free, entries live {settings.cache_expire_hours:g} h"
    if free_gb < 1:
        return Check(
            layer="cache", status="warn", detail=detail, hint="Free some room or set SAM2_CACHE_DIR."
        )
    return Check(layer="cache", status="ok", detail=detail)


def _check_service(settings: Settings) -> Check:
    from ctai_sam2.models import open_segmenter

    if not settings.service_urls:
        return Check(layer="service", status="ok", detail="none configured (SAM2_SERVICE_URL is empty)")
    with open_segmenter("remote", settings) as remote:
        health = remote.health()
    hint = "Start the service, correct SAM2_SERVICE_URL, or leave it empty to work locally."
    return Check(
        layer="service",
        status="ok" if health.available else "warn",
        detail=health.detail,
        hint="" if health.available else hint,
    )


def _check_widgets() -> Check:
    missing = [name for name in WIDGET_PACKAGES if not _installed(name)]
    if missing:
        return Check(
            layer="widgets",
            status="warn",
            detail=f"the editors need {', '.join(missing)}",
            hint='pip install "ctai-sam2[jupyter]", then restart JupyterLab.',
        )
    from jupyter_core.paths import jupyter_path

    absent = [
        n for n in LAB_EXTENSIONS if not any(Path(p, n).is_dir() for p in jupyter_path("labextensions"))
    ]
    if absent:
        return Check(
            layer="widgets",
            status="warn",
            detail=f"JupyterLab of this environment lacks the extension {', '.join(absent)}",
            hint="Install ipywidgets and ipycanvas where JupyterLab itself runs, not only in the kernel.",
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in WIDGET_PACKAGES)
    return Check(layer="widgets", status="ok", detail=versions)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
