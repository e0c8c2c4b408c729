"""What a step, a score, a load and an import may cost, by counts that are the same on every machine. No clock.

The base is a small random Llama whose vocabulary is larger than anything else in it: a tensor of that size shows.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.floor import BareLoop, ShapeRecorder, flops, saved_bytes
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_reprogram import PromptConfig, ReprogramConfig, ReprogramModel, VerbalizerConfig, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, tiny


ROOT = Path(__file__).parents[1]
VOCABULARY = 50_021
WIDTH, SLOTS = 64, 10
EIGHT = [ROWS[i % len(ROWS)] for i in range(8)]
Columns = dict[str, Any]


def config() -> ReprogramConfig:
    return ReprogramConfig(
        program=PromptConfig(template="{prompt:5} {text} {prompt:5} it was{answer}"),
        mapping=VerbalizerConfig(words={"negative": [" bad"], "positive": [" good"]}),
    )


@pytest.fixture
def model() -> ReprogramModel:
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )  # fmt: skip
    )
    made = get_reprogram_model(base, config(), tiny("llama")[1])
    assert made.backbone.sharing.proved["prefix"]  # once, before anything is counted
    return made


@pytest.fixture
def columns(model: ReprogramModel) -> Columns:
    """Rows of different lengths, so that there is padding."""
    made = model.collator()(EIGHT)
    assert not made["attention_mask"].all()
    return made


@pytest.fixture
def floor(model: ReprogramModel, columns: Columns) -> BareLoop:
    """The bare loop on the same vectors and the same label rows."""
    inputs = {k: v for k, v in columns.items() if k != "labels"}
    embeds = model.reprogrammed.program(model.reprogrammed.batch(**inputs), model.backbone).embeds
    base = model.backbone.base
    label_rows = base.lm_head.weight[list(model.active_mapping().ids)].clone()
    return BareLoop(base.model, label_rows, embeds, columns["answer_index"], columns["labels"])


@torch.no_grad()
def score(model: ReprogramModel, columns: Columns, **kwargs: Any) -> Tensor:
    return model(**{k: v for k, v in columns.items() if k != "labels"}, **kwargs).logits


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """The keyword arguments of every call of a module."""
    seen: list[dict[str, Any]] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# A step -------------------------------------------------------------------------------------------------------------


def test_a_step_takes_twice_the_flops_of_the_body(model: ReprogramModel, columns: Columns, floor: BareLoop) -> None:
    body = flops(floor.forward)
    assert body > 0
    assert flops(lambda: model(**columns).loss.backward()) <= 2.02 * body


def test_a_step_keeps_what_the_bare_loop_keeps(model: ReprogramModel, columns: Columns, floor: BareLoop) -> None:
    parameters = list(model.parameters())
    bare = saved_bytes(floor.loss, parameters)
    assert bare > 0
    assert saved_bytes(lambda: model(**columns).loss, parameters) <= 1.02 * bare


def test_a_step_makes_nothing_of_the_size_of_the_vocabulary(model: ReprogramModel, columns: Columns) -> None:
    with ShapeRecorder(model.parameters()) as made:
        model(**columns).loss.backward()
    assert made.shapes
    assert made.wider_than(VOCABULARY) == []


def test_the_recorder_sees_full_logits(model: ReprogramModel, columns: Columns) -> None:
    base = model.backbone.base
    with ShapeRecorder(model.parameters()) as made:
        base(input_ids=columns["input_ids"])
    assert made.wider_than(VOCABULARY)


def test_a_step_gives_the_bare_loops_gradient(model: ReprogramModel, columns: Columns, floor: BareLoop) -> None:
    """The two compute the same thing: else the ratios above compare nothing."""
    model(**columns).loss.backward()
    program, index = model.active_programs()[0], columns["slot_index"]  # index (batch, time)
    summed = torch.zeros_like(program.slots).index_add(0, index[index >= 0], floor.step()[index >= 0])
    torch.testing.assert_close(program.slots.grad, summed * program.scale)


def test_a_step_gives_the_base_no_gradient(model: ReprogramModel, columns: Columns) -> None:
    model(**columns).loss.backward()
    for name, parameter in model.backbone.base.named_parameters():
        assert not parameter.requires_grad, name
        assert parameter.grad is None, name


def test_right_padding_needs_no_mask_on_a_causal_base(model: ReprogramModel, columns: Columns) -> None:
    model.backbone.sharing = None
    with calls_of(model.backbone.base.model) as calls:
        score(model, columns)
    assert len(calls) == 1
    assert calls[0].get("attention_mask") is None
    assert calls[0]["use_cache"] is False


# Scoring ------------------------------------------------------------------------------------------------------------


def test_scoring_takes_the_flops_of_the_body(model: ReprogramModel, columns: Columns, floor: BareLoop) -> None:
    assert flops(lambda: score(model, columns)) <= 1.01 * flops(floor.forward)


def test_scoring_makes_nothing_larger_than_an_activation(model: ReprogramModel, columns: Columns) -> None:
    with ShapeRecorder(model.parameters()) as made:
        score(model, columns)
    assert made.wider_than(VOCABULARY) == []
    assert made.largest() <= columns["input_ids"].numel() * model.backbone.base.config.intermediate_size


def test_predict_and_evaluate_make_nothing_of_the_size_of_the_vocabulary(model: ReprogramModel) -> None:
    with ShapeRecorder(model.parameters()) as made:
        model.predict([row["text"] for row in ROWS])
        model.evaluate(ROWS)
    assert made.wider_than(VOCABULARY) == []


def test_evaluation_pads_little(model: ReprogramModel) -> None:
    """Rows of like length stand together: sorted batches take less than a tenth more positions than there are."""
    rows = [{"text": "good " * (1 + 7 * i % 40), "label": LABELS[i % 2]} for i in range(64)]
    model.backbone.sharing = None  # what is shared is no padding
    real = sum(len(row.ids) for row in model.collator().lay_out(rows))
    with calls_of(model.backbone.base.model) as calls:
        model.evaluate(rows, batch_size=8)
    computed = sum(call["inputs_embeds"].shape[:2].numel() for call in calls)
    assert real <= computed <= 1.1 * real


def test_eight_programs_take_one_pass(model: ReprogramModel, columns: Columns) -> None:
    model.backbone.sharing = None  # rows of eight programs begin with different slots
    names = ["default"] + [f"p{i}" for i in range(1, 8)]
    for i, name in enumerate(names[1:]):
        model.add_adapter(name, config(), seed=i)
    one = flops(lambda: score(model, columns))
    with calls_of(model.backbone.base.model) as calls:
        eight = flops(lambda: score(model, columns, adapter_names=names))
    assert len(calls) == 1
    assert eight <= 1.01 * one


# Files --------------------------------------------------------------------------------------------------------------


def test_a_saved_program_is_small(model: ReprogramModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["adapter_model.safetensors"] + sizes["adapter_config.json"] <= 4 * SLOTS * WIDTH + 8192
    assert set(sizes) == {"adapter_model.safetensors", "adapter_config.json", "README.md"}


def test_loading_touches_nothing_of_the_base(model: ReprogramModel, tmp_path: Path) -> None:
    """Milliseconds, because the base's fingerprint is remembered and nothing is made but the program."""
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "warm")
    with ShapeRecorder() as made:
        model.load_adapter(tmp_path, "b")
        model.set_adapter("b")
    assert made.shapes
    assert made.largest() <= 4 * SLOTS * WIDTH  # the program's own bytes, for its checksum


# Imports ------------------------------------------------------------------------------------------------------------

HEAVY = ("torch", "peft", "datasets", "evaluate", "transformers", "accelerate", "sklearn", "scipy", "numpy")


def loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Which modules a fresh process has loaded after some code."""
    script = f"import sys\n{code}\nprint(*[name for name in {names!r} if name in sys.modules], sep=',')"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return [name for name in run.stdout.splitlines()[-1].split(",") if name]


@pytest.mark.parametrize(
    "code",
    [
        "import hf_reprogram",
        "import hf_reprogram; dir(hf_reprogram)",
        "from hf_reprogram.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: assert end.code == 0",
        "from hf_reprogram.cli import main\ntry: main(['inspect', '--help'])\nexcept SystemExit: pass",
    ],
    ids=["import", "dir", "help", "command-help"],
)
def test_importing_and_helping_load_nothing_heavy(code: str) -> None:
    assert loaded_after(code, HEAVY) == []


def test_wrapping_a_model_loads_no_trainer_and_no_data_library() -> None:
    code = (
        "import hf_reprogram as hr\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "base = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=24,"
        " num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32))\n"
        "config = hr.ReprogramConfig(program=hr.PromptConfig(template='{prompt:2} {text}{answer}'),"
        " mapping=hr.VerbalizerConfig(words={'a': ['x'], 'b': ['y']}, ids={'a': [1], 'b': [2]}))\n"
        "hr.get_reprogram_model(base, config)"
    )
    unwanted = ("datasets", "evaluate", "transformers.trainer", "sklearn", "pandas", "matplotlib", "gguf")
    assert loaded_after(code, unwanted) == []
