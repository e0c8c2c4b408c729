"""A whole run of a recipe: what it prints, leaves and records; a kill and the way on; a result worth nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import hf_reprogram as hr
from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.cli import main
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.testing import AUDIO_ROWS, ROWS, tiny
from hf_reprogram.training import job
from hf_reprogram.training.recipe import load
from hf_reprogram.training.trainer import ReprogramTrainer


TEXT = """
base: {model: base}
data: {train: rows.jsonl, validation_share: 0.25}
config:
  program: {type: prompt, template: "{prompt:3} {text} it was{answer}"}
  mapping: {type: verbalizer, words: {negative: [" bad"], positive: [" good"]}}
training: {num_train_epochs: 2, per_device_train_batch_size: 6, use_cpu: true, disable_tqdm: true, logging_steps: 1}
output: out
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe beside a tiny base and 24 rows."""
    base, tokenizer = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS * 4))
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def slots(result: job.Result) -> torch.Tensor:
    return result.model.base_model.state("default")["program.0.slots"]


def test_what_a_run_leaves(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    result = job.run(load(recipe))
    folder = recipe.parent
    assert {p.name for p in (folder / "out").iterdir()} == {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, "checkpoints"}
    again = hr.AutoReprogramModel.from_pretrained(folder / "out")
    assert again.peft_config["default"].training == result.record
    assert torch.equal(again.score(ROWS), result.model.score(ROWS))

    printed = capsys.readouterr().out
    assert "mine: 18 rows to learn from, 6 to validate on" in printed
    assert "96 numbers learn: program.0 at 0.07" in printed  # U§1: the part's own rate, and it is said
    assert "'program_moved': " in printed
    card = (folder / "model_cards" / "mine.md").read_text()
    assert f"{result.record['metrics']['accuracy']:g}" in card and str(Path.home()) + "/" not in card


def test_the_record(recipe: Path) -> None:
    record = job.run(load(recipe)).record
    assert set(record) == {
        "recipe", "seed", "data", "steps", "epochs", "batch_size", "learning_rates", "loss", "metrics", "baselines",
        "versions",
    }  # fmt: skip
    assert (record["recipe"], record["seed"]) == ("mine", 0)
    shown = {"train": "rows.jsonl", "rows": 18, "validation": "0.25 of train, by label", "validation_rows": 6}
    assert record["data"] == shown
    assert (record["steps"], record["epochs"], record["batch_size"]) == (6, 2.0, 6)
    assert record["learning_rates"] == {"program.0": 0.07} and set(record["loss"]) == {"first", "last"}
    assert record["metrics"]["n"] == 6 and record["metrics"]["split"] == "validation"
    assert set(record["baselines"]["untrained"]) == {"accuracy", "loss"}
    assert record["baselines"]["majority"] == {"accuracy": 0.5}
    assert set(record["versions"]) == set(job.PACKAGES)
    assert str(recipe.parent) not in json.dumps(record), "a path of this machine"


def test_the_same_recipe_gives_the_same_program(recipe: Path) -> None:
    first, again = (job.run(load(recipe, ["resume=never"])) for _ in range(2))
    assert torch.equal(slots(first), slots(again)) and first.record == again.record
    assert not torch.equal(slots(job.run(load(recipe, ["seed=1"]))), slots(first))


def test_the_mapping_is_searched_on_the_rows_to_learn_from(
    recipe: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    search = job.search_mappings

    def watched(base: Any, config: Any, rows: Any, *given: Any, **named: Any) -> Any:
        seen.append(len(rows))
        return search(base, config, rows, *given, **named)

    monkeypatch.setattr(job, "search_mappings", watched)
    result = job.run(load(recipe, ["mapping_search=true"]))
    tried = result.record["mapping_search"]
    assert seen == [18] and "verbalizer" in tried and "linear (pool mean)" in tried
    best = max(tried.values(), key=lambda t: t["accuracy"])["accuracy"]
    chosen = next(t for name, t in tried.items() if name.split(" ")[0] == result.model.active_mapping().options.type)
    assert chosen["accuracy"] == best
    shown = capsys.readouterr().out
    assert re.search(r"^mapping +accuracy.*\n(.*\n)*linear \(pool mean\) .*\+- ", shown, re.MULTILINE)
    assert re.search(rf"^taken: {result.model.active_mapping().options.type}\b", shown, re.MULTILINE)
    assert main(["train", str(recipe), "--mapping-search", "data.streaming=true"]) == 2
    assert "no folds can be made" in capsys.readouterr().err


class TestResume:
    """`resume: auto` goes on from the last whole checkpoint, and ends where an uninterrupted run ends."""

    @staticmethod
    def stop(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        """Kill training in its step number `after`."""
        step, seen = ReprogramTrainer.training_step, []

        def killed(self: Any, *given: Any, **named: Any) -> torch.Tensor:
            seen.append(1)
            if len(seen) == after:
                raise KeyboardInterrupt
            return step(self, *given, **named)

        monkeypatch.setattr(ReprogramTrainer, "training_step", killed)

    options = ("training.eval_steps=1", "training.save_total_limit=9")

    def test_after_a_kill(self, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        whole = job.run(load(recipe, [*self.options, "output=" + str(recipe.parent / "whole")]))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            self.stop(patched, 5)
            job.run(load(recipe, self.options))
        (checkpoints,) = (recipe.parent / "out" / "checkpoints").iterdir()
        torn = checkpoints / "checkpoint-4" / "optimizer.pt"
        torn.write_bytes(torn.read_bytes()[:100])
        capsys.readouterr()
        resumed = job.run(load(recipe, self.options))
        assert "going on from" in (printed := capsys.readouterr().out) and "checkpoint-3" in printed
        assert torch.equal(slots(resumed), slots(whole))
        assert resumed.record == whole.record, "losses, baselines and metrics are those of one run"

    def test_another_recipe_starts_anew(self, recipe: Path, capsys: pytest.CaptureFixture) -> None:
        job.run(load(recipe))
        for changes, goes_on in (([], True), (["resume=never"], False), (["training.learning_rate=0.5"], False)):
            capsys.readouterr()
            job.run(load(recipe, changes))
            assert ("going on from" in capsys.readouterr().out) == goes_on


def test_a_mapping_that_is_only_fitted(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["config=null", "preset=linear_probe", "options.labels=[negative, positive]"]
    record = job.run(load(recipe, options)).record
    assert record["steps"] == 0 and record["metrics"]["n"] == 6 and "loss" not in record
    assert "numbers learn" not in capsys.readouterr().out


def test_a_mapping_that_starts_estimated(recipe: Path) -> None:
    mapping = "{type: linear, solver: gradient, start: ridge}"
    record = job.run(load(recipe, [f"config.mapping={mapping}", "config.labels=[negative, positive]"])).record
    assert record["learning_rates"] == {"program.0": 0.07, "mapping": 0.001}
    assert record["baselines"]["untrained"]["accuracy"] > 0.5  # judged with the estimated start


def test_numbers_for_labels(recipe: Path) -> None:
    rows = [{"text": row["text"], "label": len(row["text"]) / 40} for row in ROWS * 4]
    (recipe.parent / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mapping = "{type: linear, solver: gradient}"
    options = [f"config.mapping={mapping}", "config.labels=[length]", "config.problem_type=regression"]
    record = job.run(load(recipe, options)).record
    assert set(record["baselines"]) == {"untrained"} and set(record["baselines"]["untrained"]) == {"mse", "loss"}
    assert record["metrics"]["mse"] < record["baselines"]["untrained"]["mse"]


def test_a_stream(recipe: Path) -> None:
    options = ["data.streaming=true", f"data.validation={recipe.parent}/rows.jsonl", "training.max_steps=2"]
    record = job.run(load(recipe, options)).record
    assert record["steps"] == 2 and "rows" not in record["data"] and record["data"]["validation_rows"] == 24


class TestVerdict:
    """U§1: a result that is no better than doing nothing is said to be so."""

    better = {"accuracy": 0.8, "loss": 0.4}

    @pytest.mark.parametrize(
        ("metrics", "baselines", "says"),
        [
            ({"accuracy": 0.9, "loss": 0.3}, {"majority": {"accuracy": 0.6}, "untrained": better}, None),
            ({"accuracy": 0.6, "loss": 0.3}, {"majority": {"accuracy": 0.6}}, r"majority \(0.6000\): nothing useful"),
            (
                {"accuracy": 0.7, "loss": 0.3},
                {"majority": {"accuracy": 0.6}, "untrained": better},
                r"untrained \(0.80",
            ),
            ({"accuracy": 0.8, "loss": 0.3}, {"untrained": better}, None),  # as often right, and surer of it
            ({"accuracy": 0.8, "loss": 0.4}, {"untrained": better}, "untrained"),
            (
                {"accuracy": 0.5, "loss": 0.9},
                {"majority": {"accuracy": 0.6}, "untrained": better},
                "majority .* and unt",
            ),
        ],
    )
    def test_it_warns_where_it_must(self, metrics: dict, baselines: dict, says: str | None) -> None:
        found = job.verdict(metrics, baselines)
        assert found is None if says is None else re.search(says, found)

    def test_a_run_warns(self, recipe: Path) -> None:
        rows = [{"text": "good", "label": label} for label in ("negative", "negative", "positive") * 4]
        (recipe.parent / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with pytest.warns(UserWarning, match=r"no better than majority \(0.6667\).*Try another rate"):
            job.run(load(recipe, ["training.num_train_epochs=1"]))


# Overrides, and what the error says; nothing of the base is loaded before.
BAD: dict[str, tuple[list[str], str]] = {
    "no such base": (["base.model=./bose"], "base.model: .*bose is no folder"),
    "a base that is not on the Hub": (
        ["base.model=nobody/nothing"],
        "base.model: 'nobody/nothing' could not be loaded",
    ),
    "an unknown dtype": (["base.dtype=float23"], "base.dtype: 'float23'.*did you mean 'float32'"),
    "an unknown auto class": (
        ["base.auto_class=AutoModelForImageToText"],
        "base.auto_class: 'AutoModelForImageToText'",
    ),
    "more layers than there are": (["base.layers=9"], "base.layers: 9 of .*Expected 1 to 2"),
    "an unknown program": (["config.program.type=promt"], "unknown program 'promt'"),
    "an unknown preset": (["config=null", "preset=wrap"], "unknown preset 'wrap'"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[list[str], str], recipe: Path) -> None:
    overrides, says = case
    with pytest.raises(ConfigError, match=says):
        job.run(load(recipe, overrides))
    assert not (recipe.parent / "out").exists()


def test_a_recipe_of_first_layers(recipe: Path) -> None:
    result = job.run(load(recipe, ["base.layers=1", "training.max_steps=1"]))
    again = hr.AutoReprogramModel.from_pretrained(recipe.parent / "out")
    assert again.backbone.base.config.num_hidden_layers == 1
    assert torch.equal(again.score(ROWS), result.model.score(ROWS))


class TestCommand:
    """`hf-reprogram train` and `evaluate`, the function behind scripts/train.py."""

    def test_train_then_evaluate(
        self, recipe: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(recipe.parent)
        assert main(["train", str(recipe), "training.max_steps=1"]) == 0
        capsys.readouterr()
        assert main(["evaluate", "out", "rows.jsonl"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert set(found) == {"accuracy", "macro_f1", "loss", "majority", "n"} and found["n"] == 24

        rows = [{"sentence": row["text"], "grade": row["label"] == "positive"} for row in ROWS]
        rows = [{**row, "grade": int(row["grade"])} for row in rows]
        Path("other.jsonl").write_text("\n".join(map(json.dumps, rows)))
        options = ["--column", "text=sentence", "--label", "grade", "--label-names", "negative,positive"]
        assert main(["evaluate", "out", "other.jsonl", *options]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(found["accuracy"])

    def test_errors_are_one_line(self, recipe: Path, capsys: pytest.CaptureFixture) -> None:
        assert main(["train", str(recipe), "data.train=./row.jsonl"]) == 2
        assert main(["train", str(recipe.parent / "nothing.yaml")]) == 2
        assert main(["evaluate", str(recipe.parent / "base"), "rows.jsonl"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith("hf-reprogram: ")]) == 3


def test_a_recipe_of_sound(tmp_path: Path) -> None:
    """A folder that has one of sounds for every label, a base that hears, and a run from YAML to loaded program."""
    base, extractor = tiny("wav2vec2-classifier")
    base.save_pretrained(tmp_path / "base")
    extractor.save_pretrained(tmp_path / "base")
    for i, row in enumerate(AUDIO_ROWS * 2):
        (tmp_path / "sounds" / row["label"]).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "sounds" / row["label"] / f"{i}.wav"
        soundfile.write(path, row["audio"]["array"], row["audio"]["sampling_rate"], subtype="FLOAT")
    (tmp_path / "heard.yaml").write_text(
        "base: {model: ./base}\n"
        "data: {train: ./sounds, validation_share: 0.34}\n"
        "config:\n"
        "  program: {type: waveform}\n"
        "  mapping: {type: linear, on: classes, solver: gradient}\n"
        "  labels: [negative, positive]\n"
        "  canvas: {samples: 3200, level: peak}\n"
        "training: {max_steps: 2, per_device_train_batch_size: 4, use_cpu: true}\n"
        "output: ./out\n"
        "cards: ./cards\n"
    )
    with pytest.warns(UserWarning, match="no better than"):
        result = job.run(load(tmp_path / "heard.yaml"))
    again = hr.AutoReprogramModel.from_pretrained(tmp_path / "out")
    assert torch.equal(again.score(AUDIO_ROWS), result.model.score(AUDIO_ROWS))
    card = (tmp_path / "cards" / "heard.md").read_text()
    assert "3,200 samples, level peak" in card
    heard = result.record["signal_to_program_dB"]  # of the validation part
    assert list(heard) == ["negative", "positive"] and 0 < min(heard.values()) < 100
    assert f"| signal to program dB | negative {heard['negative']:.6g}, positive" in card

    # Labels that nothing names are the folders'.
    assert job.program_config(load(tmp_path / "heard.yaml", ["config.labels=null"])).labels == ["negative", "positive"]
    other = ["config=null", "preset=voice2series"]
    assert job.program_config(load(tmp_path / "heard.yaml", other)).labels == ["negative", "positive"]
    named = [*other, "options.labels=[positive, negative]"]
    assert job.program_config(load(tmp_path / "heard.yaml", named)).labels == ["positive", "negative"]
    with pytest.raises(ConfigError, match="labels=None"):  # its labels are letters
        job.program_config(load(tmp_path / "heard.yaml", [*other[:1], "preset=cross_lingual_asr"]))


def test_a_recipe_of_texts(tmp_path: Path) -> None:
    """Files and what is said in them, a base of letters, and a run from YAML to a loaded program that writes."""
    base, processor = tiny("wav2vec2-ctc")
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    lines = []
    for i, row in enumerate(AUDIO_ROWS * 2):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, row["audio"]["array"], row["audio"]["sampling_rate"], subtype="FLOAT")
        lines.append(json.dumps({"file": str(path), "said": row["text"]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "said.yaml").write_text(
        "base: {model: ./base}\n"
        "data: {train: ./rows.jsonl, columns: {audio: file}, label: said, validation_share: 0.34}\n"
        "config:\n"
        "  mapping: {type: ctc, symbols: [a, b, d, e, f, i, n]}\n"
        "  canvas: {samples: 3200}\n"
        "training: {max_steps: 8, per_device_train_batch_size: 4, use_cpu: true}\n"
        "output: ./out\n"
        "cards: ./cards\n"
    )
    result = job.run(load(tmp_path / "said.yaml"))
    judged, before = result.record["metrics"], result.record["baselines"]["untrained"]
    assert {"cer", "wer", "loss", "n"} <= set(judged) and judged["loss"] < before["loss"]
    again = hr.AutoReprogramModel.from_pretrained(tmp_path / "out")
    assert again.predict(AUDIO_ROWS) == result.model.predict(AUDIO_ROWS)
    card = (tmp_path / "cards" / "said.md").read_text()
    assert "| character errors | word errors | loss |" in card and "pipeline_tag: automatic-speech-recognition" in card


def test_a_run_that_teaches_texts(recipe: Path) -> None:
    """Of a base that reads: labels are the texts that it is to write."""
    words = 'mapping: {type: verbalizer, words: {negative: [" bad"], positive: [" good"]}}'
    recipe.write_text(TEXT.replace(words, "mapping: {type: transcript, most: 3}"))
    result = job.run(load(recipe))
    assert {"cer", "wer", "loss"} <= set(result.record["metrics"])
    assert set(result.record["baselines"]) == {"untrained"}
    assert {"text", "score"} == set(hr.AutoReprogramModel.from_pretrained(recipe.parent / "out").predict(ROWS)[0])


def test_a_run_of_texts_that_teach_themselves(recipe: Path) -> None:
    """No column of labels, or one that means something else and is left out."""
    head, _, tail = TEXT.partition("config:")
    tail = tail[tail.index("training:") :]
    parts = "preset: reprogbert\noptions: {labels: [a, b, c, d, e, f, g, h]}\n"
    text = head.replace("rows.jsonl", "abc.jsonl") + parts + tail
    base, tokenizer = tiny("bert")
    base.save_pretrained(recipe.parent / "base")
    tokenizer.save_pretrained(recipe.parent / "base")
    rows = [{"text": "abcdefgh"[i % 3 :], "label": i} for i in range(12)]
    (recipe.parent / "abc.jsonl").write_text("\n".join(json.dumps({"text": row["text"]}) for row in rows))
    recipe.write_text(text)
    assert {"recovery", "perplexity"} <= set(job.run(load(recipe)).record["metrics"])
    (recipe.parent / "abc.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe.write_text(text.replace("data: {", "data: {label: null, ").replace("output: out", "output: out2"))
    assert job.run(load(recipe)).record["steps"] > 0
    recipe.write_text(TEXT.replace("data: {", "data: {label: null, "))
    with pytest.raises(DataError, match="data.label: None, and the mapping learns from labels"):
        job.run(load(recipe))
