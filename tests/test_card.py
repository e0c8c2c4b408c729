"""The model card: it parses, says everything, holds no placeholder, and its snippet runs as it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LANGUAGE_MODELS, tiny
from hf_reprogram.testing.helpers import fit
from tests.artefact_kit import KINDS


ODD = {
    "program": {"type": "prompt", "template": "{prompt:2} {text}\nsays `so` | it was{answer}"},
    "mapping": {"type": "verbalizer", "words": {"so | so": [" bad"], "`good`\n": [" good"], "<b>#ok</b>": [" fine"]}},
}
PAIR = {
    "program": {"type": "prompt", "template": "{prompt:2} {premise} so {hypothesis}{answer}"},
    "mapping": KINDS["prompt"]["mapping"],
}
CASES = {**KINDS, "odd-names": ODD, "two-columns": PAIR}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bases are named by a path from the working directory, as on the Hub."""
    monkeypatch.chdir(tmp_path)


def _model(values: dict[str, Any], family: str = "llama", name: str | None = "me/tiny") -> ReprogramModel:
    base, tokenizer = tiny(family)
    if name:
        base.save_pretrained(name)
        tokenizer.save_pretrained(name)
        base, tokenizer = type(base).from_pretrained(name), AutoTokenizer.from_pretrained(name)
    model = get_reprogram_model(base, ReprogramConfig(**values), processing_class=tokenizer)
    fit(model)
    return model


def _card(model: ReprogramModel) -> str:
    model.save_pretrained("program")
    return Path("program", CARD_FILE).read_text()


def _front(card: str) -> dict[str, Any]:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL).group(1))


def _tables(card: str) -> list[list[str]]:
    """Cells of every row of every table."""
    rows = [line for line in card.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@pytest.mark.parametrize("case", CASES)
def test_its_snippet_runs(case: str, family: str, capsys: pytest.CaptureFixture) -> None:
    model = _model(CASES[case], family)
    card = _card(model)
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    ast.parse(snippet)
    assert snippet.count('"path/or/repo-of-this-card"') == 1
    exec(snippet.replace("path/or/repo-of-this-card", "program"), {})
    printed = capsys.readouterr().out
    assert printed.strip()
    if model.peft_config["default"].labels:
        assert any(label.strip() in printed.replace("\\n", "\n") for label in model.label_names())


@pytest.mark.parametrize("case", CASES)
def test_it_says_everything(case: str) -> None:
    model = _model(CASES[case])
    config, card = model.peft_config["default"], _card(model)
    rows = _tables(card)
    assert all(len(row) == 2 for row in rows), "a cell broke its table"
    assert sum(row[0] == "label" for row in rows) == len(config.labels or [])
    assert f"`{config.mapping.type}`" in card and f"`{config.program.type}`" in card
    assert [row for row in rows if row[0] == "template"]
    numbers = sum(t.numel() for t in model.base_model.state("default").values())
    assert f"{numbers:,} numbers" in card
    for label, words in getattr(config.mapping, "words", None) and config.mapping.words.items() or ():
        assert label.split("\n")[0].replace("|", "\\|").strip("`") in card
        assert all(word in card for word in words)


@pytest.mark.parametrize("case", CASES)
def test_it_holds_no_placeholder(case: str) -> None:
    card = _card(_model(CASES[case]))
    for text in ("More Information", "[optional]", "TODO", "TBD", "None", "{{", "}}", "<!--", "lorem"):
        assert text not in card, text
    assert not re.search(r"^#+ .*\n+(?=#|\Z)", card, re.MULTILINE), "a heading with nothing under it"


class TestFrontMatter:
    def test_parses_and_names_library_and_task(self) -> None:
        front = _front(_card(_model(KINDS["prompt"])))
        assert front["library_name"] == "hf_reprogram" and front["pipeline_tag"] == "text-classification"
        assert {"reprogramming", "prompt", "verbalizer"} <= set(front["tags"])

    def test_without_labels_there_is_no_classification(self) -> None:
        assert "pipeline_tag" not in _front(_card(_model(KINDS["nothing"])))

    def test_a_method_stands_once_among_the_tags(self) -> None:
        tags = _front(_card(_model(KINDS["nothing"])))["tags"]
        assert len(tags) == len(set(tags))

    def test_lineage_of_a_base_on_the_hub(self) -> None:
        model = _model(KINDS["prompt"])
        model.peft_config["default"].base_model_name_or_path = "HuggingFaceTB/SmolLM2-135M"
        front = _front(_card(model))
        assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M"
        assert "base_model:adapter:HuggingFaceTB/SmolLM2-135M" in front["tags"]

    @pytest.mark.parametrize("name", ["me/tiny", "./tiny", "tiny", "/tmp/tiny", "a/b/c", "~/tiny", "..\\tiny", None])
    def test_a_folder_is_no_lineage(self, name: str | None) -> None:
        """The Hub refuses a card that names a model which is none."""
        model = _model(KINDS["prompt"])  # saved as the folder me/tiny
        model.peft_config["default"].base_model_name_or_path = name
        front = _front(_card(model))
        assert "base_model" not in front and not any("base_model" in tag for tag in front["tags"])

    @pytest.mark.parametrize("name", ["---\n/x", "a: b/c", "'x/y", "#x/y", "[x]/y"])
    def test_odd_names_cannot_break_out_of_it(self, name: str) -> None:
        model = _model(KINDS["prompt"])
        model.peft_config["default"].base_model_name_or_path = name
        assert _front(_card(model))["library_name"] == "hf_reprogram"


def test_a_base_without_a_name_must_be_given_and_the_snippet_says_so() -> None:
    model = _model(KINDS["prompt"], name=None)
    card = _card(model)
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "base_model=base, processing_class=tokenizer" in snippet
    base, tokenizer = tiny("llama")
    exec(snippet.replace("path/or/repo-of-this-card", "program"), {"base": base, "tokenizer": tokenizer})


def test_the_record_of_a_run_is_shown() -> None:
    model = _model(KINDS["prompt"])
    model.peft_config["default"].training = {"seed": 3, "data": "a | b\nc", "metrics": {"accuracy": 0.875}}
    rows = _tables(_card(model))
    assert ["seed", "3"] in rows and ["metrics", "accuracy 0.875"] in rows
    assert all(len(row) == 2 for row in rows)


def test_it_is_written_with_the_artefact_and_nothing_else() -> None:
    _card(_model(KINDS["prompt"]))
    assert sorted(p.name for p in Path("program").iterdir()) == sorted((CARD_FILE, CONFIG_FILE, WEIGHTS_FILE))
