"""The recipes and Accelerate configurations that ship: read by the readers that will read them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import hf_reprogram as hr
from hf_reprogram.testing import tiny
from hf_reprogram.training import job
from hf_reprogram.training.arguments import training_arguments
from hf_reprogram.training.recipe import load


SCRIPTS = Path(__file__).parents[2] / "scripts"
RECIPES = sorted((SCRIPTS / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_can_be_meant(path: Path) -> None:
    """Its config and its arguments are valid, its labels are those of its data, its places are in the repository."""
    recipe = load(path, ["training.use_cpu=true"])
    config = job.program_config(recipe)
    assert recipe.data.label_names == (None if config.problem_type == "transcription" else config.labels)
    assert training_arguments(recipe, config.problem_type).load_best_model_at_end
    root = SCRIPTS.parent
    assert (Path(recipe.output), Path(recipe.cards)) == (root / "out" / path.stem, root / "model_cards")


def test_the_recipes_are_those_that_the_readme_names() -> None:
    assert [path.stem for path in RECIPES] == [
        "antibodies",
        "commands",
        "demo",
        "peptides",
        "peptides_remap",
        "series",
        "sst2",
        "trec",
        "trec_encoder",
    ]


# Recipe, tiny base, a row of its data.
SYMBOLS = {
    "antibodies": ("bert", {"text": "QVQLVQSGAEVKK"}),
    "peptides_remap": ("bert-classifier", {"text": "GIGKFLHSAK", "label": 1}),
}


@pytest.mark.parametrize(("recipe", "row"), SYMBOLS.items(), ids=SYMBOLS)
def test_rows_in_symbols(recipe: str, row: tuple[str, dict], tmp_path: Path) -> None:
    """The whole run, on a base that knows nothing."""
    base, tokenizer = tiny(row[0])
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [row[1] | ({"label": i % 2} if "label" in row[1] else {}) for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    steps = ["training.eval_strategy=steps", "training.save_strategy=steps", "training.eval_steps=2",
             "training.save_steps=2"]  # fmt: skip
    given = [f"base.model={tmp_path / 'base'}", f"data.train={tmp_path / 'rows.jsonl'}", *steps]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no better than it was: there is nothing to learn
        record = _trained(recipe, tmp_path, *given)
    assert record["steps"] == 4 and record["learning_rates"]


CONFIGURATIONS = {
    "one_gpu": ("NO", 1),
    "ddp": ("MULTI_GPU", 2),
    "fsdp": ("FSDP", 2),
    "zero2": ("DEEPSPEED", 2),
    "zero3": ("DEEPSPEED", 2),
}


def test_every_configuration_has_a_row_here() -> None:
    assert sorted(p.stem for p in (SCRIPTS / "accelerate").glob("*.yaml")) == sorted(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accelerate_reads_its_configuration(name: str) -> None:
    """By the loader of `accelerate launch`, which refuses unknown keys."""
    found = load_config_from_file(str(SCRIPTS / "accelerate" / f"{name}.yaml"))
    assert (found.distributed_type.value, found.num_processes) == CONFIGURATIONS[name]
    if name == "fsdp":
        assert found.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"  # else Trainer saves no artefact
        assert found.fsdp_config["fsdp_version"] == 2
    if name.startswith("zero"):
        assert found.deepspeed_config["zero_stage"] == int(name[-1])


# On the real model ---------------------------------------------------------------------------------------------------


def _short(tmp_path: Path, *options: str) -> list[str]:
    return [
        f"output={tmp_path / 'out'}",
        f"cards={tmp_path}",
        "training.max_steps=4",
        "training.use_cpu=true",
        *options,
    ]


def _trained(recipe: str, tmp_path: Path, *options: str) -> dict:
    result = job.run(load(SCRIPTS / "recipes" / f"{recipe}.yaml", _short(tmp_path, *options)))
    assert (tmp_path / f"{recipe}.md").is_file()
    assert hr.AutoReprogramModel.from_pretrained(result.output).peft_config["default"].training == result.record
    return result.record


@pytest.mark.slow
def test_sst2_from_files(tmp_path: Path, shared: Path, smollm2: Path) -> None:
    files = shared / "data" / "sst2"
    validation = tmp_path / "validation.jsonl"
    rows = [f'{{"text": "{word}", "label": {i}}}' for word in ("good", "a bore") for i in (1, 0)]
    validation.write_text("\n".join(rows))
    record = _trained(
        "sst2", tmp_path, f"base.model={smollm2}", f"data.train={files / 'train.jsonl.gz'}",
        f"data.validation={validation}", "data.columns={}",
    )  # fmt: skip
    assert record["steps"] == 4 and record["data"]["rows"] == 67349


@pytest.mark.slow
def test_trec_from_a_file(tmp_path: Path, shared: Path, smollm2: Path) -> None:
    train = shared / "data" / "trec" / "train.jsonl.gz"
    options = [f"base.model={smollm2}", f"data.train={train}", "data.label=label", "data.validation_share=0.01"]
    record = _trained("trec", tmp_path, *options)
    assert record["data"]["validation_rows"] == 55 and record["metrics"]["n"] == 55


@pytest.mark.slow
def test_programs_in_a_list_on_an_encoder(tmp_path: Path, shared: Path, minilm: Path) -> None:
    train = shared / "data" / "trec" / "train.jsonl.gz"
    options = [f"base.model={minilm}", f"data.train={train}", "data.label=label", "data.validation_share=0.01"]
    record = _trained("trec_encoder", tmp_path, *options)
    assert list(record["learning_rates"]) == ["program.0", "program.1", "mapping"]
    assert record["baselines"]["untrained"]["accuracy"] > 0.7  # it begins at the probe


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        # Not `--cpu --num_processes 2`, which runs one process without a word (E§0 31).
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_two_ranks_by_a_launcher(launcher: list[str], tmp_path: Path) -> None:
    from hf_reprogram.testing import ROWS

    base, tokenizer = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS * 4))
    values = {
        "base": {"model": "base"}, "data": {"train": "rows.jsonl"}, "output": "out", "preset": "prompt_tuning",
        "options": {"labels": {"negative": [" bad"], "positive": [" good"]}},
        "training": {"max_steps": 3, "per_device_train_batch_size": 2, "use_cpu": True},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(json.dumps(values))  # JSON is YAML too
    command = [sys.executable, "-m", *launcher, str(SCRIPTS / "train.py"), str(tmp_path / "mine.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    model = hr.AutoReprogramModel.from_pretrained(tmp_path / "out")
    assert model.peft_config["default"].training["batch_size"] == 4, "there was one rank"
    assert done.stdout.count("saved in") == 1
