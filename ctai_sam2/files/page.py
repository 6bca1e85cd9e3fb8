"""HTML pages from the package's own templates."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from ctai_sam2.errors import InputError


def render_page(package: str, **values: Any) -> str:
    """Fill in a package's ``report.html.j2``; values are escaped, and one that is missing is an error.

    Parameters
    ----------
    package : str
        Package that the template belongs to.
    **values
        What the template shows.

    Raises
    ------
    InputError
        If jinja2 is not installed.
    """
    require_page_writer()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files(package).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(**values)


def require_page_writer() -> None:
    """Check that pages can be written here.

    Raises
    ------
    InputError
        If jinja2 is not installed.
    """
    if find_spec("jinja2") is None:
        raise InputError("reports need jinja2", hint="Install ctai-sam2[cohort].")
