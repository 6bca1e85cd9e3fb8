"""How a cohort is run: one frozen value that reaches every worker."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast

from ctai_sam2._version import __version__
from ctai_sam2.cohort.case import Case, format_prompt
from ctai_sam2.cohort.case_record import RECORD_VERSION
from ctai_sam2.cohort.store import key_of
from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.cutoffs import require_cutoffs_for
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.measure.reference_values import DEFAULT_REFERENCE, reference_table
from ctai_sam2.models import Segmenter, open_segmenter
from ctai_sam2.settings import Settings
from ctai_sam2.structures import AXIAL_STRUCTURES, LEVELS, Structure, require_structures
from ctai_sam2.types import Window

TIME_LIMIT_S = 600.0
"""Seconds a case may take where nothing else is specified."""

_MAX_TRIALS = 200
_MAX_PROCESSES = 1024
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True, kw_only=True)
class CohortConfig:
    """How every case of a cohort is segmented and measured, and where the work is done.

    Parameters
    ----------
    segmenter : str
        ``local``: SAM2 in every worker. ``remote``: the service of the settings. ``package.module:function``:
        what a function without arguments returns. A cohort is measured by one model, so there is no falling
        back from one to the other.
    settings : Settings
        Read from the environment when omitted.
    structures : sequence of str
        Wanted structures of the mid-L3 slice.
    definitions : TissueDefinitions
        HU ranges and density rule.
    window : Window
        Window of the image the model sees.
    robustness_trials : int
        How often psoas and muscle are segmented again with jittered prompts: 0, or 2 to 200.
    smi_cutoffs, smd_cutoffs : str
        Names in `CUTOFF_TABLES`.
    reference : str
        Name in `REFERENCE_TABLES`: whom SMA, SMI and SMD are compared with.
    workers : int, optional
        Cases done at the same time, each in a process with its own model; as many as cores when omitted.
        Under Dask the cluster decides.
    dask : str or distributed.Client, optional
        Address of a Dask scheduler (``tcp://…``), or a client. Its workers must see the same paths.
    levels : (str, str), optional
        Segment every slice of these vertebrae as well; tables in ``volumes/`` and ``levels.csv``.
    time_limit_s : float
        Seconds for one case.
    memory_limit_mb : float, optional
        Memory of one worker process; its share of four fifths of the machine's when omitted.
    threads : int, optional
        Threads of each worker process; cores divided by workers when omitted, 1 under Dask.
    retry_failed : bool
        Try again what failed in an earlier run though nothing changed.
    progress : bool
        Show a bar with rate and time left.

    Raises
    ------
    InputError
        If a name is unknown or a number is out of range.

    Examples
    --------
    >>> CohortConfig(workers=2, structures=("muscle",)).structures
    ('muscle',)
    """

    segmenter: str = "local"
    settings: Settings = field(default_factory=Settings)
    structures: tuple[Structure, ...] = AXIAL_STRUCTURES
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS
    window: Window = SOFT_TISSUE
    robustness_trials: int = 0
    smi_cutoffs: str = "prado-2008"
    smd_cutoffs: str = "martin-2013"
    reference: str = DEFAULT_REFERENCE
    workers: int | None = None
    dask: Any = field(default=None, compare=False)
    levels: tuple[str, str] | None = None
    time_limit_s: float = TIME_LIMIT_S
    memory_limit_mb: float | None = None
    threads: int | None = None
    retry_failed: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "structures", require_structures(self.structures))
        if self.segmenter not in ("local", "remote") and ":" not in self.segmenter:
            raise InputError(
                "a cohort is segmented locally, by the service, or by what a function returns",
                received=self.segmenter,
                hint="Give local, remote or package.module:function.",
            )
        if self.levels is not None and (len(self.levels) != 2 or not set(self.levels) <= set(LEVELS)):
            raise InputError(
                "a range is two vertebral levels", received=self.levels, hint=f"Known: {', '.join(LEVELS)}."
            )
        if self.robustness_trials != 0 and not 2 <= self.robustness_trials <= _MAX_TRIALS:
            raise InputError(f"0 or 2 to {_MAX_TRIALS} trials", received=self.robustness_trials)
        require_cutoffs_for("smi_cm2_m2", self.smi_cutoffs)
        require_cutoffs_for("smd_hu", self.smd_cutoffs)
        reference_table(self.reference)
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and not (isinstance(value, int) and 1 <= value <= _MAX_PROCESSES):
                raise InputError(f"{name} must be 1 to {_MAX_PROCESSES}", received=repr(value))
        limits = (self.time_limit_s, self.memory_limit_mb)
        if not all(limit is None or limit > 0 for limit in limits):
            raise InputError("limits must be more than 0", received=limits)

    def resolve(self, cases: int) -> CohortConfig:
        """Fill in what was left open about this machine: workers, threads and memory for so many cases."""
        cores = os.cpu_count() or 1
        workers = max(1, min(self.workers or cores, cases))
        threads = self.threads or (1 if self.dask is not None else max(1, cores // workers))
        settings = self.settings
        if settings.num_threads is None:
            settings = settings.model_copy(update={"num_threads": threads})
        return replace(
            self,
            workers=workers,
            threads=threads,
            settings=settings,
            memory_limit_mb=self.memory_limit_mb or _total_memory_mb() * _SHARE_OF_MEMORY / workers,
        )

    def for_workers(self) -> CohortConfig:
        """Return what worker processes receive: without the service's key and the Dask client."""
        return replace(self, settings=self.settings.model_copy(update={"api_key": None}), dask=None)

    def open_segmenter(self) -> Segmenter:
        """Open the segmenter; nothing heavy is loaded yet.

        Raises
        ------
        InputError
            If the settings or the function's name cannot be used.
        Unavailable
            If segmentation is switched off.
        """
        if self.segmenter in ("local", "remote"):
            settings = self.settings
            if settings.api_key is None:
                # In a worker: each machine has the key in its environment.
                settings = Settings(**settings.model_dump(exclude={"api_key"}))
            return open_segmenter(cast(Any, self.segmenter), settings)
        module, _, name = self.segmenter.partition(":")
        try:
            make: Callable[[], Segmenter] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                "there is no such function that opens a segmenter",
                received=self.segmenter,
                hint="Give package.module:function of an importable module.",
            ) from error
        return make()

    def model_token(self) -> str:
        """Digest of what distinguishes one model from another, without loading it where it is local.

        Devices differ by rounding only and do not count.

        Raises
        ------
        WeightsMissing
            If the checkpoint is not on this machine.
        Unavailable
            If the service does not say which model it has.
        """
        if self.segmenter == "local":
            return key_of(["local", __version__, *_local_weights(self.settings)])
        with self.open_segmenter() as segmenter:
            identity = segmenter.identity
        return key_of([identity.weights_sha256, identity.image_size, identity.dtype, identity.code_version])

    @cached_property
    def _definitions_identifier(self) -> str:
        return self.definitions.identifier

    def inference_part(self, case: Case) -> dict[str, Any]:
        """Return what decides a case's predictions apart from its image and the model, as plain values."""
        return {
            "series_uid": case.series_uid,
            "mid_l3_index": case.mid_l3_index,
            "l3_xy": case.l3_xy,
            "sagittal_index": case.sagittal_index,
            "prompts": {name: format_prompt(prompt) for name, prompt in sorted(case.prompts.items())},
            "structures": sorted(self.structures),
            "window": {"level": self.window.level, "width": self.window.width},
            "robustness_trials": self.robustness_trials,
            # Only where it is wanted: records made before there were ranges stay valid.
            **({} if self.levels is None else {"levels": [*self.levels, self._definitions_identifier]}),
        }

    def row_part(self, case: Case, correction: str | None) -> dict[str, Any]:
        """Return what else decides a case's row, as plain values."""
        return {
            "record_version": RECORD_VERSION,
            "definitions": self._definitions_identifier,
            "confidence_threshold": self.settings.confidence_threshold,
            "cutoffs": [self.smi_cutoffs, self.smd_cutoffs],
            "reference": self.reference,
            "age_years": case.age_years,
            "case_cutoffs": case.cut_offs,
            "height_m": case.height_m,
            "weight_kg": case.weight_kg,
            "sex": case.sex,
            "correction": correction,
        }


class CohortOptions(TypedDict, total=False):
    """Fields of `CohortConfig` by name, as `run_cohort` takes them; None for ``settings`` is the default."""

    segmenter: str
    settings: Settings | None
    structures: Sequence[Structure]
    definitions: TissueDefinitions
    window: Window
    robustness_trials: int
    smi_cutoffs: str
    smd_cutoffs: str
    reference: str
    workers: int | None
    dask: Any
    levels: tuple[str, str] | None
    time_limit_s: float
    memory_limit_mb: float | None
    threads: int | None
    retry_failed: bool
    progress: bool


@dataclass(frozen=True, kw_only=True)
class CaseTask:
    """One case to be done by a worker.

    Parameters
    ----------
    case : Case
        The case.
    stamp : str
        Of its files, as the planner saw them.
    key : str
        Of all that decides the record; in the record it says that nothing is to be done.
    """

    case: Case
    stamp: str
    key: str


def _total_memory_mb() -> float:
    import psutil

    return float(psutil.virtual_memory().total) / 1e6


def _local_weights(settings: Settings) -> list[Any]:
    from ctai_sam2.models.factory import open_store

    store = open_store(settings)
    path = settings.model_path
    is_file = path is not None and path.is_file()
    weights = path if is_file and path is not None else store.locate(settings.model)
    config = settings.model_config_file
    digest = store.digest(Path(weights))
    return [digest, settings.dtype, None if config is None else store.digest(config)]
