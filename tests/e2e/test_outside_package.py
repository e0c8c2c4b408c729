"""README's program and mapping in a package of their own: installed, trained, saved, loaded elsewhere, checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hf_reprogram as hr
from hf_reprogram.errors import ArtefactError
from hf_reprogram.testing import tiny


README = (Path(__file__).parents[2] / "README.md").read_text()

TRAIN = """
import json, sys
import hf_reprogram as hr
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from hf_reprogram.testing import ROWS

made = []
for name, program, mapping in (
    ("program", hr.ShiftConfig(), {"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}}),
    ("mapping", {"type": "shift", "template": "{text}"}, "prototypes"),
):
    base, tokenizer = AutoModelForCausalLM.from_pretrained("base"), AutoTokenizer.from_pretrained("base")
    config = hr.ReprogramConfig(program=program, mapping=mapping, labels=["negative", "positive"])
    model = hr.get_reprogram_model(base, config, tokenizer)
    fresh = model.predict(ROWS)
    arguments = TrainingArguments(
        "out", max_steps=1, remove_unused_columns=False, use_cpu=True, report_to=[], save_strategy="no"
    )
    hr.make_trainer(model, arguments, ROWS).train()
    model.save_pretrained(name)
    scores = model.predict(ROWS)
    made.append({"rates": model.learning_rates(), "moved": scores != fresh, "scores": scores})
json.dump(made, open("made.json", "w"))
"""

LOAD = """
import json, sys
import hf_reprogram as hr
from hf_reprogram.cli import main
from hf_reprogram.testing import FAMILIES, ROWS, check_mapping, check_program

for name, made in zip(("program", "mapping"), json.load(open("made.json"))):
    model = hr.AutoReprogramModel.from_pretrained(name)
    assert model.predict(ROWS) == made["scores"], name
check_program("shift", sys.argv[1:] or FAMILIES)
check_mapping("prototypes", sys.argv[1:] or FAMILIES)
assert main(["inspect", "mapping"]) == main(["methods"]) == 0
"""


def _blocks() -> list[str]:
    example = re.search(r"<!-- outside -->\n(.*?)<!-- /outside -->", README, re.DOTALL).group(1)
    return re.findall(r"```\w+\n(.*?)```", example, re.DOTALL)


def _run(code: str, folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the two files of the README, and what installing makes of them; a base beside."""
    folder = tmp_path_factory.mktemp("outside")
    project, program, mapping = _blocks()
    (folder / "pyproject.toml").write_text(project)
    (folder / "my_methods.py").write_text(f"{program}\n\n{mapping}")
    _run("import setuptools; setuptools.setup()", folder, "-q", "egg_info")
    base, tokenizer = tiny("llama")
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="module")
def made(package: Path) -> list[dict[str, Any]]:
    _run(TRAIN, package)
    return json.loads((package / "made.json").read_text())


def test_the_complete_program_is_forty_lines() -> None:
    project, program, _ = _blocks()
    assert len([line for line in (project + program).splitlines() if line.strip()]) <= 40


def test_it_trains_where_it_is_installed(made: list[dict[str, Any]]) -> None:
    assert [m["rates"] for m in made] == [{"program.0": 0.01}, {"program.0": 0.01, "mapping": 1e-3}]
    assert all(m["moved"] for m in made)


def test_another_process_loads_it_and_checks_it(package: Path, made: list[dict[str, Any]]) -> None:
    page = _run(LOAD, package, "llama")
    assert "program   shift: x_t = E[id_t] + v: one vector (width,) added to every embedding" in page
    assert "mapping   prototypes: logit_c = " in page and "program shift (changes tokens): " in page


@pytest.mark.slow
def test_it_holds_on_every_family(package: Path, made: list[dict[str, Any]]) -> None:
    _run(LOAD, package)


def test_without_the_package_its_program_is_refused(package: Path, made: list[dict[str, Any]]) -> None:
    """A config names a method; nothing that it names is imported."""
    with pytest.raises(ArtefactError, match="unknown program 'shift'"):
        hr.AutoReprogramModel.from_pretrained(package / "program")
