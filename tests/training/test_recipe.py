"""Recipes: YAML as people mean it, strict sections, overrides, places."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_reprogram.errors import ConfigError
from hf_reprogram.training.recipe import load, read_yaml


TEXT = """
base: {model: base}
data: {train: rows.jsonl}
preset: warp
options: {labels: {no: [" bad"], yes: [" good"]}}
training: {learning_rate: 1e-3}
output: out
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    made = load(written(tmp_path))
    assert (made.name, made.seed, made.resume) == ("mine", 0, "auto")
    assert made.base.model == str(tmp_path / "base") and made.data.train == str(tmp_path / "rows.jsonl")
    assert made.output == str(tmp_path / "out") and made.cards == str(tmp_path / "model_cards")
    assert made.options["labels"] == {"no": [" bad"], "yes": [" good"]}


def test_a_recipe_is_read_without_torch() -> None:
    code = (
        "import sys; from hf_reprogram.training import recipe, source\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'peft', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestYaml:
    """What PyYAML's own reader makes of what people write."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-3", 0.001),  # PyYAML: the text "1e-3"
            ("1.5e4", 15000.0),
            ("[no, yes, on, off, y]", ["no", "yes", "on", "off", "y"]),  # PyYAML: truth values
            ("[true, False]", [True, False]),
            ("010", 10),  # PyYAML: 8
            ("2026-01-01", "2026-01-01"),  # PyYAML: a date
            ("1:30", "1:30"),  # PyYAML: 90
            ("[~, null, '']", [None, None, ""]),
            ("", None),
        ],
    )
    def test_values(self, text: str, value: Any) -> None:
        found = read_yaml(text, "x")
        assert found == value and type(found) is type(value)

    def test_a_key_that_stands_twice(self) -> None:
        with pytest.raises(ConfigError, match="recipe, line 3: is no YAML .*'b' stands twice"):
            read_yaml("a: 1\nb: 2\nb: 3\n", "recipe")

    def test_nothing_is_executed(self) -> None:
        with pytest.raises(ConfigError, match="is no YAML"):
            read_yaml("!!python/object/apply:os.system ['true']", "recipe")


class TestWords:
    """The words of a mapping may stand in a file of their own (a thesaurus, say); the config then holds them."""

    TEXT = (
        TEXT.partition("preset")[0]
        + """
config: {program: prompt, mapping: {type: knowledge, words: words.json}}
output: out
"""
    )

    def test_from_the_recipes_folder(self, tmp_path: Path) -> None:
        (tmp_path / "words.json").write_text('{"no": [" bad", " awful"], "yes": [" good"]}')
        made = load(written(tmp_path, self.TEXT))
        assert made.config["mapping"]["words"] == {"no": [" bad", " awful"], "yes": [" good"]}

    def test_from_where_the_command_is_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "words.json").write_text('{"no": [" bad"], "yes": [" good"]}')
        (tmp_path / "other.yaml").write_text("{no: [' poor'], yes: [' fine']}")
        monkeypatch.chdir(tmp_path)
        made = load(written(tmp_path, self.TEXT), ["config.mapping.words=other.yaml"])
        assert made.config["mapping"]["words"]["no"] == [" poor"]

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"config\.mapping\.words: .*words\.json' is no file.*JSON or YAML"):
            load(written(tmp_path, self.TEXT))


class TestOverrides:
    """`key.sub=value`, the value in YAML, its paths from where the command is run."""

    def test_values(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        made = load(
            written(tmp_path),
            ["training.max_steps=3", "data.train=other.csv.gz", "options.template={p:2} {text} is{answer}",
             "data.columns={text: review}", "output=there", "base.revision=main", "seed=7"],
        )  # fmt: skip
        assert made.training == {"learning_rate": 0.001, "max_steps": 3} and made.seed == 7
        assert made.data.train == str(tmp_path / "elsewhere" / "other.csv.gz")
        assert made.data.columns == {"text": "review"} and made.base.revision == "main"
        assert made.options["template"] == "{p:2} {text} is{answer}"
        assert made.output == str(tmp_path / "elsewhere" / "there")

    def test_hub_names_stay(self, tmp_path: Path) -> None:
        made = load(written(tmp_path), ["data.train=stanfordnlp/sst2", "base.model=google-bert/bert-base-uncased"])
        assert (made.data.train, made.base.model) == ("stanfordnlp/sst2", "google-bert/bert-base-uncased")

    def test_home_and_variables(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        monkeypatch.setenv("ROWS", str(tmp_path))
        made = load(written(tmp_path), ["base.model=~/base", "data.train=[$ROWS/a.csv, $ROWS/b.csv]"])
        assert made.base.model == "/home/me/base"
        assert made.data.train == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


# Overrides of a recipe that is right, and what the error says.
BAD: dict[str, tuple[list[str], str]] = {
    "an unknown key": (["trianing.max_steps=3"], "trianing: no such key in .*mine.yaml.*did you mean 'training'"),
    "an unknown key of a section": (["data.colums={}"], "data.colums: no such key.*did you mean 'columns'"),
    "a key below a value": (["data.train.rows=3"], "data.train.rows: 'train' is .* which has no keys"),
    "no override": (["training.max_steps"], "training.max_steps: is no override.*key.sub=value"),
    "a text for a number": (["seed=zero"], "seed: 'zero' is a str.*int"),
    "a truth for a number": (["seed=true"], "seed: True is a bool.*int"),
    "a text for a list": (["data.label_names=negative"], r"data.label_names: 'negative' is a str.*list\[str\]"),
    "a section that is a value": (["base=gpt2"], "base: 'gpt2'.*model, dtype, revision"),
    "a missing key": (["base={dtype: float32}"], "base.model: missing in"),
    "neither config nor preset": (["preset=null", "options={}"], "config, preset: neither is given"),
    "both": (["config={program: prompt}"], "config, preset: both are given"),
    "options without preset": (["preset=~", "config={}"], "options: given without a preset"),
    "an unknown way to resume": (["resume=autom"], "resume: 'autom'.*did you mean 'auto'"),
    "a name that is a path": (["name=a/b"], "name: 'a/b'.*letters"),
    "a share of more than all": (["data.validation_share=1.5"], "validation_share: 1.5.*between 0 and 1"),
    "a variable that is not set": (["output=$NO_SUCH_THING/out"], r"output: \$NO_SUCH_THING in .* is not set"),
    "a stream without steps": (
        ["data.streaming=true", "data.validation=v.csv"],
        "training.max_steps: None, and data.train streams without a length",
    ),
    "a stream without validation": (
        ["data.streaming=true", "training.max_steps=3"],
        "data.validation: None, and train streams",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[list[str], str], tmp_path: Path) -> None:
    overrides, says = case
    with pytest.raises(ConfigError, match=says):
        load(written(tmp_path), overrides)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ConfigError, match="mine.yml: is no file.*did you mean 'mine.yaml'"):
        load(tmp_path / "mine.yml")
    with pytest.raises(ConfigError, match="line 1: is no YAML"):
        load(written(tmp_path, "base: {model: ["))
    with pytest.raises(ConfigError, match="is a list.*base, data, config, output"):
        load(written(tmp_path, "- base"))
    with pytest.raises(ConfigError, match="is a NoneType"):
        load(written(tmp_path, ""))
