"""The commands and options that the pages name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from ctai_sam2.cli.app import app
from ctai_sam2.settings import Settings
from tests.docs.pages import PAGES, PROJECT, blocks, name_of, prose

ROOT = typer.main.get_command(app)
SHELL = {"sh", "bash", "shell", "console"}
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M))
# Named in a sentence rather than typed: `ctai-sam2` alone, or with letters that stand for a value.
_INLINE = re.compile(r"`((?:ctai-sam2|make|python -m) [^`]+)`")


def commands_on(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = [line for line in _INLINE.findall(prose(text)) if "…" not in line and "..." not in line]
    for block in blocks(text):
        if block.language in SHELL:
            lines = re.sub(r"\\\n\s*", " ", block.code).splitlines()
            found += [line.removeprefix("$ ").strip() for line in lines]
    return found


def faults_of(line: str) -> list[str]:
    words = shlex.split(line.replace("\\|", "|"), comments=True)
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
        words.pop(0)
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in {"benchmarks", "ctai_sam2", "service"}:
        return _faults_of_module(words[2], words[3:])
    if words[:1] == ["make"]:
        return [f"make {word}" for word in words[1:] if "=" not in word and _bare(word) not in TARGETS]
    if not words or Path(words[0]).name != "ctai-sam2":
        return []
    return _faults_of_command(ROOT, words[1:])


def _faults_of_command(command: click.Command, words: list[str]) -> list[str]:
    if hasattr(command, "commands"):
        word = next((w for w in map(_bare, words) if w and not w.startswith("-")), None)
        if word is None:
            return _unknown_options(command, words)
        faults = []
        for name in word.split("|"):
            if name not in command.commands:
                return [f"no command {name}"]
            rest = [w for w in words if _bare(w) != word]
            faults += _faults_of_command(command.commands[name], rest)
        return faults
    return _unknown_options(command, words)


def _faults_of_module(name: str, words: list[str]) -> list[str]:
    """Options of `python -m name` that stand in none of its sources: their parsers are made when it runs."""
    path = PROJECT / name.replace(".", "/")
    sources = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    if not all(source.is_file() for source in sources) or not sources:
        return [f"no module {name}"]
    sources += path.parent.glob("reporting.py")  # the benchmarks' common option
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    options = [_bare(word).partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return [f"{name} {option}" for option in options if f'"{option}"' not in text]


def _unknown_options(command: click.Command, words: list[str]) -> list[str]:
    known = {"-h", "--help"}.union(*(p.opts + p.secondary_opts for p in command.params))
    given = (_bare(word).partition("=")[0] for word in words)
    return [f"{command.name} {word}" for word in given if re.match(r"--?[a-z]", word) and word not in known]


def _bare(word: str) -> str:
    return word.strip("[](),.;:")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    assert [fault for line in commands_on(page) for fault in faults_of(line)] == []


def test_there_are_commands_to_check() -> None:
    assert sum("ctai-sam2 " in line for page in PAGES for line in commands_on(page)) > 20


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("SAM2_DEVICE=cpu ctai-sam2 demo --out x  # --nonsense", []),
        ("ctai-sam2 models list\\|fetch", ["no command fetch"]),
        ("ctai-sam2 demo [--studi PATH]", ["demo --studi"]),
        ("ctai-sam2 sing", ["no command sing"]),
        ("make demo STUDY=x", []),
        ("make coffee", ["make coffee"]),
        ("python -m benchmarks.volumes --nonsense", ["benchmarks.volumes --nonsense"]),
        ("python -m benchmarks.moon", ["no module benchmarks.moon"]),
        ("python -m ctai_sam2.training levels --out run", []),
        ("ls --nothing", []),
    ],
)
def test_wrong_commands_are_found(line: str, faults: list[str]) -> None:
    assert faults_of(line) == faults


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_exist(page: Path) -> None:
    known = {f"SAM2_{name.upper()}" for name in Settings.model_fields} | {"SAM2_BUILD_CUDA"}
    text = re.sub(r"CTAI_SAM2_\w+", "", page.read_text(encoding="utf-8"))
    assert set(re.findall(r"\bSAM2_[A-Z0-9_]*[A-Z0-9]\b", text)) <= known
