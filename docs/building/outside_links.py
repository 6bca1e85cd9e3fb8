"""Let pages link to files of the project beyond ``docs``: the site carries copies under ``source``.

The same relative link then works in the repository, on the built site and offline.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(?<=\]\()(?P<target>\.\.?/[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_FOLDER = "source"


def on_files(files: Files, config: Any) -> Files:
    """Add every outside file that a page links to."""
    docs = Path(config["docs_dir"])
    for page in list(files.documentation_pages()):
        for match in _LINK.finditer((docs / page.src_uri).read_text(encoding="utf-8")):
            outside = _outside(page.src_uri, match["target"])
            if outside is None or files.get_file_from_path(_copy_of(outside)) is not None:
                continue
            found = docs.parent / outside
            if found.is_file():
                # Under .txt a browser shows the file instead of guessing; Markdown would become a page.
                files.append(File.generated(config, _copy_of(outside), content=found.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave ``docs`` into links to the copies."""
    start = posixpath.dirname(page.file.src_uri) or "."

    def replace(match: re.Match[str]) -> str:
        outside = _outside(page.file.src_uri, match["target"])
        if outside is None:
            return match[0]
        return posixpath.relpath(_copy_of(outside), start)

    return _LINK.sub(replace, markdown)


def _outside(src_uri: str, target: str) -> str | None:
    """Path from the project's folder, or None where the link stays within ``docs``."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(src_uri), target))
    return None if path.startswith("docs/") else path


def _copy_of(outside: str) -> str:
    suffix = posixpath.splitext(outside)[1]
    return f"{_FOLDER}/{outside}" + ("" if suffix in {".ipynb", ".json", ".png"} else ".txt")
