"""The model card: it parses, says everything, holds no placeholder, and its snippet runs as it stands."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.card import model_card
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
    assert snippet.startswith("import hf_reprogram as hr\n"), "E§0 3: PEFT knows our type only after this line"
    exec(snippet, {})
    printed = capsys.readouterr().out
    assert printed.strip()
    if model.peft_config["default"].labels:
        assert any(label.strip() in printed.replace("\\n", "\n") for label in model.label_names())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_snippet_of_symbols_is_written_in_them(family: str, capsys: pytest.CaptureFixture) -> None:
    symbols = list("ACGT")
    config = {"program": {"type": "projection", "symbols": symbols}, "mapping": {"type": "tokens", "symbols": symbols}}
    card = _card(_model(config, family))
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(snippet, {})
    assert "'sequence': 'ACGT" in capsys.readouterr().out
    assert _front(card)["pipeline_tag"] == "fill-mask"


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
        assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M" and front["base_model_relation"] == "adapter"
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
    exec(snippet, {"base": base, "tokenizer": tokenizer})


# What a recipe's run and the demo write down.
RECIPE = {
    "recipe": "sst2_few",
    "seed": 3,
    "data": {"train": "stanfordnlp/sst2", "rows": 32, "validation": "stanfordnlp/sst2", "validation_rows": 872},
    "steps": 40,
    "epochs": 2.5,
    "batch_size": 8,
    "learning_rates": {"program.0": 0.07},
    "loss": {"first": 0.9, "last": 0.1},
    "metrics": {"accuracy": 0.84375, "macro_f1": 0.83, "loss": 0.4, "n": 872, "split": "validation"},
    "baselines": {"majority": {"accuracy": 0.51}, "untrained": {"accuracy": 0.6, "loss": 0.9}, "classical:32": 0.9},
    "versions": {"torch": "2.11.0"},
}
DEMO = {"seed": 0, "data": "a | b\nc, 32", "batch": 8, "metrics": {"accuracy": 84.4, "test_rows": 1000}}


@cache
def _kept(kind: str) -> ReprogramModel:
    return _model(KINDS[kind], name=None)


def _recorded(training: dict[str, Any], kind: str = "prompt", **fields: Any) -> str:
    model = _kept(kind)
    config = dataclasses.replace(model.peft_config["default"], training=training, **fields)
    return model_card(config, model.base_model.state("default"), "program")


class TestRecordOfARun:
    def test_metrics_stand_beside_their_baselines(self) -> None:
        card = _recorded(RECIPE)
        rows = _tables(card)
        at = rows.index(["", "accuracy", "macro F1", "loss"])
        assert rows[at + 2 : at + 6] == [
            ["**this program**", "84.4 %", "83.0 %", "0.4"],
            ["always the commonest label", "51.0 %", "", ""],
            ["the program before training", "60.0 %", "", "0.9"],
            ["a classical model of the rows, without the base (32)", "90.0 %", "", ""],
        ]
        assert "872 rows of the validation part (`stanfordnlp/sst2`)." in card
        assert "No better in accuracy than: a classical model of the rows, without the base (32)." in card

    def test_what_was_done_is_told(self) -> None:
        rows = _tables(_recorded(RECIPE))
        for row in (["recipe", "sst2_few"], ["learning rates", "program.0 0.07"], ["loss", "first 0.9, last 0.1"]):
            assert row in rows
        assert not {"metrics", "baselines"} & {row[0] for row in rows}

    def test_of_numbers_less_error_is_better(self) -> None:
        """The metric that counts is that of the problem: a mean squared error here."""
        model = _model(KINDS["gradient"])
        config = model.peft_config["default"]
        config.problem_type = "regression"
        config.training = {
            "metrics": {"mse": 0.5, "pearson": 0.7},
            "baselines": {"a": {"mse": 0.4}, "b": {"mse": 0.9}},
        }
        card = _card(model)
        assert ["", "MSE", "Pearson's r"] in _tables(card) and "No better in MSE than: `a`." in card
        assert [r.metric_type for r in ModelCard(card).data.eval_results] == ["mse", "pearsonr"]

    def test_metrics_without_baselines_say_so(self) -> None:
        assert "No baseline was recorded" in _recorded({"metrics": {"accuracy": 0.8}})

    def test_the_hub_gets_them_as_its_own(self) -> None:
        data = ModelCard(_recorded(RECIPE)).data
        assert data.datasets == ["stanfordnlp/sst2"] and data.metrics == ["accuracy", "f1", "loss"]
        assert data.model_name == "program"
        first = data.eval_results[0]
        assert (first.task_type, first.dataset_type, first.dataset_split) == (
            "text-classification", "stanfordnlp/sst2", "validation",
        )  # fmt: skip
        assert (first.metric_type, first.metric_value) == ("accuracy", 0.84375)

    def test_percent_and_text_as_the_demo_writes_them(self) -> None:
        card = _recorded(DEMO)
        assert ["**this program**", "84.4 %"] in _tables(card) and "1,000 rows." in card
        data = ModelCard(card).data
        assert data.eval_results[0].metric_value == 0.844 and data.eval_results[0].dataset_type == "custom"
        assert data.datasets is None and all(len(row) == 2 for row in _tables(card))

    @pytest.mark.parametrize(
        ("train", "named"),
        [
            ("me/rows", True),
            ("me/rows [train]", True),
            ("data/train.csv", False),
            ("a/b.csv [train]", False),
            ("rows/a.JSONL.gz", False),
            ("me/tiny", False),
            (7, False),
        ],
    )
    def test_a_file_is_no_dataset_of_the_hub(self, train: Any, named: bool) -> None:
        Path("me/tiny").mkdir(parents=True)
        assert ("datasets" in _front(_recorded({"data": {"train": train}}))) == named

    @pytest.mark.parametrize(("language", "known"), [("en", True), ("English", False), (["en"], False), (None, False)])
    def test_language_only_where_known(self, language: Any, known: bool) -> None:
        assert ("language" in _front(_recorded({"language": language}))) == known

    @pytest.mark.parametrize(
        "training",
        [
            {}, {"metrics": None}, {"metrics": 0.8}, {"metrics": []}, {"metrics": {"accuracy": "high", "x|y": True}},
            {"metrics": {"a|b\n": 10**400, "c`d": 1.5, "accuracy": 1}, "baselines": [1]},
            {"metrics": {"loss": -1e300, "split": 7, "n": "many"}, "baselines": {"majority": None, "x|": {"loss": 2}}},
            {"data": [1, {"a": None}], "metrics": {"accuracy": 0.5}, "baselines": {"probe": "low"}},
            {"data": {"train": None, "validation": {"x": 1}}, "metrics": {"accuracy": 0.5, "split": "validation"}},
            {"---": "---", "<!--": None, "deep": {"a": {"b": {"c": [[], {}, None, {"d": False}]}}}},
        ],
    )  # fmt: skip
    def test_free_json_breaks_nothing(self, training: dict[str, Any]) -> None:
        card = _recorded(training)
        assert _front(card)["library_name"] == "hf_reprogram" and "None" not in card
        ModelCard(card)
        for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
            assert len({len(row) for row in _tables(table)}) == 1, "a cell broke its table"


def test_a_second_save_is_byte_identical() -> None:
    model = _model(KINDS["prompt"])
    model.peft_config["default"].training = RECIPE
    assert _card(model) == _card(model)


@pytest.mark.parametrize("name", ['quo"ted', "back\\slash", "new\nline", "odd\udc80byte"])
def test_its_snippet_runs_from_any_folder(name: str) -> None:
    model = _model(KINDS["prompt"])
    model.save_pretrained(name)
    (snippet,) = re.findall(r"```python\n(.*?)```", Path(name, CARD_FILE).read_text(), re.DOTALL)
    exec(snippet, {})


def test_its_snippet_names_the_sub_folder() -> None:
    model = _model(KINDS["prompt"])
    model.add_adapter("topics", ReprogramConfig(**KINDS["prompt"]))
    model.save_pretrained("program")
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("program", "topics", CARD_FILE).read_text(), re.DOTALL)
    assert 'from_pretrained("program", subfolder="topics")' in snippet
    exec(snippet, {})


def test_it_is_written_with_the_artefact_and_nothing_else() -> None:
    _card(_model(KINDS["prompt"]))
    assert sorted(p.name for p in Path("program").iterdir()) == sorted((CARD_FILE, CONFIG_FILE, WEIGHTS_FILE))
