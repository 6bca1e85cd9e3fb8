"""Old module paths still import, with a ``DeprecationWarning`` that names the new one."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    # The real ones add nothing that is used here, and their import a tenth to the start of a command.
    class Loader: ...

    class MetaPathFinder: ...


MOVED = {
    "ctai_sam2.cohort.scanning": "ctai_sam2.cohort.scan",
    "ctai_sam2.core.agreement": "ctai_sam2.measure.overlap",
    "ctai_sam2.core.columns": "ctai_sam2.measure.columns",
    "ctai_sam2.core.cutoffs": "ctai_sam2.measure.cutoffs",
    "ctai_sam2.core.definitions": "ctai_sam2.measure.definitions",
    "ctai_sam2.core.metrics": "ctai_sam2.measure.body_composition",
    "ctai_sam2.core.phantom": "ctai_sam2.phantom",
    "ctai_sam2.io.dicom_grouping": "ctai_sam2.io.dicom_groups",
    "ctai_sam2.io.atomic": "ctai_sam2.files.atomic",
    "ctai_sam2.io.terms": "ctai_sam2.io.structure_terms",
    "ctai_sam2.oneclick": "ctai_sam2.segmentation",
    "ctai_sam2.outputs": "ctai_sam2.study.outputs",
    "ctai_sam2.records": "ctai_sam2.journal",
    "ctai_sam2.segmenters": "ctai_sam2.models",
    "ctai_sam2.study_change": "ctai_sam2.study.change",
    "ctai_sam2.study_outputs": "ctai_sam2.study.outputs",
    "ctai_sam2.study_row": "ctai_sam2.study.row",
}
"""Old path to new path, of the modules that documentation and notebooks named."""


class _MovedModules(MetaPathFinder, Loader):
    """Resolves the paths in `MOVED` and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in MOVED or fullname == "ctai_sam2.core":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        if spec.name not in MOVED:
            return None
        new = MOVED[spec.name]
        # The frames of the import machinery are skipped by Python itself, so level 2 is the import statement.
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        alias = ModuleType(spec.name, f"Deprecated: {new}.")
        moved = importlib.import_module(new)
        alias.__dict__["__getattr__"] = lambda name: getattr(moved, name)
        alias.__dict__["__dir__"] = lambda: dir(moved)
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute: an alias is complete when it is created."""


def install() -> None:
    """Let the old paths be imported; calling it again changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedModules())  # first: an emptied folder of old bytecode is a package too
