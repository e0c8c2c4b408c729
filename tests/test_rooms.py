"""The house: imports run one way, files are small, doctests run."""

from __future__ import annotations

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[1] / "hf_reprogram"
# DESIGN.md 3, with more rooms beside serve: before it `features` (what a frozen model gives, kept on the disk),
# `passes` (batch by batch) and `filling` (symbols for masks); after it `explain` and `wrap` (from base and config to
# model parts). A room imports only rooms above it; `__init__`, and the registry at call time, may name any.
ORDER = [
    "errors",
    "batch",
    "template",
    "symbols",
    "registry",
    "canvas",
    "processors",
    "presets",
    "config",
    "losses",
    "metrics",
    "backbone",
    "programs",
    "mappings",
    "fingerprint",
    "artefact",
    "hub",
    "card",
    "data",
    "tuner",
    "reprogrammed",
    "features",
    "passes",
    "filling",
    "serve",
    "explain",
    "wrap",
    "model",
    "auto",
    "pipelines",
    "training",
    "sources",
    "tools",
    "testing",
    "cli",
]
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, at any depth of its code."""
    package = ["hf_reprogram", *path.relative_to(PACKAGE).parts[:-1]]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [[*base, *node.module.split(".")]] if node.module else [[*base, a.name] for a in node.names]
            rooms |= {name[1] for name in names if len(name) > 1}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_reprogram."):
            rooms.add(node.module.split(".")[1])
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = _room(path)
    assert room in ORDER, f"{room} is no room of the house: give it a place in DESIGN.md's list"
    upward = {r for r in _imported_rooms(path) if ORDER.index(r) > ORDER.index(room)}
    assert not upward, f"{path.name} imports {upward}, which stand below it"


def test_programs_and_mappings_know_neither_each_other_nor_transformers() -> None:
    for kind, other in (("programs", "mappings"), ("mappings", "programs")):
        for path in (PACKAGE / kind).glob("*.py"):
            assert other not in _imported_rooms(path), path
            assert "transformers" not in path.read_text().replace("transformers model", ""), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_small(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= 420, f"{path.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_examples_in_docstrings_run(path: Path) -> None:
    name = ".".join(["hf_reprogram", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    result = doctest.testmod(import_module(name), optionflags=flags)
    assert result.failed == 0
