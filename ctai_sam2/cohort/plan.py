"""What a run is asked to do, in values that reach every worker."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from ctai_sam2._version import __version__
from ctai_sam2.cohort.manifest import Case, format_prompt
from ctai_sam2.cohort.store import key_of
from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.cutoffs import CUTOFF_TABLES
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.models import Segmenter, open_segmenter
from ctai_sam2.settings import Settings
from ctai_sam2.structures import AXIAL_STRUCTURES, Structure
from ctai_sam2.types import Window

_MOST_TRIALS = 200


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How every case of a run is treated.

    Parameters
    ----------
    segmenter : str
        ``local``: SAM2 in every worker. ``remote``: the service of the settings. ``package.module:function``:
        what a function without arguments returns. A cohort is measured by one model, so there is no falling
        back from one to the other.
    settings : mapping
        Values of `Settings`, without the service's key, which each machine has in its environment.
    structures : tuple of str
        Wanted structures of the mid-L3 slice.
    definitions : TissueDefinitions
        HU ranges and density rule.
    window : Window
        Window of the image the model sees.
    confidence_threshold : float
        A mask the model trusts less is flagged.
    robustness_trials : int
        How often psoas and muscle are asked for again with jittered prompts; 0 for not at all.
    smi_cutoffs, smd_cutoffs : str
        Names in `CUTOFF_TABLES`.

    Raises
    ------
    InputError
        If a name is unknown or a number is out of range.
    """

    segmenter: str = "local"
    settings: Mapping[str, Any] = field(default_factory=dict)
    structures: tuple[Structure, ...] = AXIAL_STRUCTURES
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS
    window: Window = SOFT_TISSUE
    confidence_threshold: float = 0.5
    robustness_trials: int = 0
    smi_cutoffs: str = "prado-2008"
    smd_cutoffs: str = "martin-2013"

    def __post_init__(self) -> None:
        if self.segmenter not in ("local", "remote") and ":" not in self.segmenter:
            raise InputError(
                "a cohort is segmented locally, by the service, or by what a function returns",
                received=self.segmenter,
                hint="Give local, remote or package.module:function.",
            )
        unknown = [name for name in self.structures if name not in get_args(Structure) or name == "l3"]
        if unknown or not self.structures:
            raise InputError(
                "no such structure of an axial slice",
                received=unknown,
                hint=f"Some of {', '.join(AXIAL_STRUCTURES)}.",
            )
        if self.robustness_trials != 0 and not 2 <= self.robustness_trials <= _MOST_TRIALS:
            raise InputError(f"0 or 2 to {_MOST_TRIALS} trials", received=self.robustness_trials)
        for name in (self.smi_cutoffs, self.smd_cutoffs):
            if name not in CUTOFF_TABLES:
                raise InputError(
                    "no such cut-offs", received=name, hint=f"One of {', '.join(CUTOFF_TABLES)}."
                )

    def open_segmenter(self) -> Segmenter:
        """Open what answers; nothing heavy is loaded yet.

        Raises
        ------
        InputError
            If the settings or the function's name cannot be used.
        Unavailable
            If segmentation is switched off.
        """
        if self.segmenter in ("local", "remote"):
            return open_segmenter(cast(Any, self.segmenter), Settings(**self.settings))
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
        """Digest of what tells one model from another, without loading it where it is local.

        Devices differ by rounding only and do not count.

        Raises
        ------
        WeightsMissing
            If the checkpoint is not on this machine.
        Unavailable
            If the service cannot be asked which model it has.
        """
        if self.segmenter == "local":
            return key_of(["local", __version__, *_local_weights(Settings(**self.settings))])
        with self.open_segmenter() as segmenter:
            identity = segmenter.identity
        return key_of([identity.weights_sha256, identity.image_size, identity.dtype, identity.code_version])

    def inference_part(self, case: Case) -> dict[str, Any]:
        """Return what decides a case's answers beside its image and the model, as plain values."""
        return {
            "series_uid": case.series_uid,
            "mid_l3_index": case.mid_l3_index,
            "l3_xy": case.l3_xy,
            "sagittal_index": case.sagittal_index,
            "prompts": {name: format_prompt(prompt) for name, prompt in sorted(case.prompts.items())},
            "structures": sorted(self.structures),
            "window": asdict(self.window),
            "robustness_trials": self.robustness_trials,
        }

    def row_part(self, case: Case, correction: str | None) -> dict[str, Any]:
        """Return what else decides a case's row, as plain values."""
        return {
            "definitions": self.definitions.identifier,
            "confidence_threshold": self.confidence_threshold,
            "cutoffs": [self.smi_cutoffs, self.smd_cutoffs],
            "height_m": case.height_m,
            "weight_kg": case.weight_kg,
            "sex": case.sex,
            "correction": correction,
        }


@dataclass(frozen=True, kw_only=True)
class Task:
    """One case to be done by a worker.

    Parameters
    ----------
    case : Case
        Which.
    stamp : str
        Of its files, as the planner saw them.
    key : str
        Of all that decides the record; in the record it says that nothing is to be done.
    """

    case: Case
    stamp: str
    key: str


def _local_weights(settings: Settings) -> list[Any]:
    from ctai_sam2.models.factory import open_store

    store = open_store(settings)
    path = settings.model_path
    is_file = path is not None and path.is_file()
    weights = path if is_file and path is not None else store.locate(settings.model)
    config = settings.model_config_file
    digest = store.digest(Path(weights))
    return [digest, settings.dtype, None if config is None else store.digest(config)]
