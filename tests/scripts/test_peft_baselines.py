"""PEFT's methods with our reading: their parameters, our rows and loss, and a base that stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.peft_baselines import Prefixed, _without_program, lora, prompt_tuning, twin, virtual_tokens
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, TrainingArguments

import hf_reprogram as hr
from hf_reprogram.testing.helpers import ROWS, state_hash
from hf_reprogram.testing.models import tiny


TEMPLATE = "{text} it was{answer}"
WORDS = {"words": {"negative": [" bad"], "positive": [" good"]}}
INIT = "the film was"


@pytest.fixture
def model(tmp_path: Path) -> tuple[Any, Any]:
    base, tokenizer = tiny("llama")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")  # no token of its own, as SmolLM2
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return base, AutoTokenizer.from_pretrained(tmp_path / "tokenizer")  # PEFT reads it from its folder again


def arguments(folder: Path, rate: float, steps: int = 2) -> TrainingArguments:
    return TrainingArguments(
        str(folder), remove_unused_columns=False, learning_rate=rate, weight_decay=0.0, max_steps=steps,
        per_device_train_batch_size=4, train_sampling_strategy="sequential", use_cpu=True, save_strategy="no",
        report_to=[], disable_tqdm=True,
    )  # fmt: skip


def test_prefixed_says_what_our_prompt_says_with_the_same_vectors_in_front(model: tuple[Any, Any]):
    base, tokenizer = model
    plain = _without_program(twin(base), tokenizer, TEMPLATE, WORDS)
    prefixed = Prefixed(plain, virtual_tokens(base, tokenizer, 3, INIT))
    ours = hr.get_reprogram_model(
        twin(base),
        hr.ReprogramConfig(
            program=hr.PromptConfig(template="{prompt:3} " + TEMPLATE, init_text=INIT),
            mapping=hr.VerbalizerConfig(**WORDS),
        ),
        processing_class=tokenizer,
    )
    spaced = [{**row, "text": " " + row["text"]} for row in ROWS]  # as it has after our slots
    theirs = prefixed(**plain.collator()(spaced))
    same = ours(**ours.collator()(ROWS))
    torch.testing.assert_close(theirs.logits, same.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.loss, same.loss, atol=1e-5, rtol=1e-5)


def test_prompt_tuning_trains_its_vectors_alone_and_leaves_the_base(model: tuple[Any, Any], tmp_path: Path):
    base, tokenizer = model
    before = state_hash(base)
    common = (base, tokenizer, TEMPLATE, WORDS, ROWS, ROWS)
    still = prompt_tuning(*common, arguments(tmp_path, 0.0), slots=3, init_text=INIT)
    moved = prompt_tuning(*common, arguments(tmp_path, 0.05), slots=3, init_text=INIT)
    assert (still.method, moved.method) == ("peft_prompt_tuning:0", "peft_prompt_tuning:0.05")
    assert moved.trained_parameters == 3 * base.config.hidden_size
    assert not torch.allclose(still.scores, moved.scores, atol=1e-4)
    assert state_hash(base) == before


def test_lora_starts_at_zero_shot_and_leaves_the_base(model: tuple[Any, Any], tmp_path: Path):
    base, tokenizer = model
    before, names = state_hash(base), [name for name, _ in base.named_modules()]
    common = (base, tokenizer, TEMPLATE, WORDS, ROWS, ROWS)
    still, moved = lora(*common, arguments(tmp_path, 0.0)), lora(*common, arguments(tmp_path, 0.05))
    zero_shot = _without_program(twin(base), tokenizer, TEMPLATE, WORDS).score(ROWS)
    torch.testing.assert_close(still.scores, zero_shot, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moved.scores, zero_shot, atol=1e-4)
    # two layers, rank 8, hidden size 32: queries 32 -> 32, values 32 -> 16
    assert moved.trained_parameters == 2 * 8 * ((32 + 32) + (32 + 16))
    assert state_hash(base) == before and [name for name, _ in base.named_modules()] == names
