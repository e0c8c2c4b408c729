"""On a GPU: every program and mapping gives what it gives on the CPU, and trains; tools run where the model lies.

Skipped where there is none, in CI too: `pytest tests/test_gpu.py` on a machine that has one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

import hf_reprogram as hr
from hf_reprogram.registry import names
from hf_reprogram.testing import ROWS, build, config_of, program_config, suits, tiny
from hf_reprogram.testing.helpers import close, loss_of, outputs, rows_of, train_step, unlabelled


if not torch.cuda.is_available():
    pytest.skip("no CUDA device on this machine", allow_module_level=True)

FAMILIES = (
    "llama", "bert-encoder", "bert-classifier", "t5", "esm", "whisper-seq2seq", "wav2vec2-ctc", "ast-classifier",
    "moonshine-seq2seq", "attentionrnn-classifier",
)  # fmt: skip
CASES = [
    (kind, name, family)
    for kind in ("program", "mapping")
    for name in names(kind)
    for family in FAMILIES
    if suits(config_of(kind, name, family), family)
]
NEAR = 2e-3  # of the largest logit

torch.backends.cudnn.allow_tf32 = False  # convolutions of 10 bits of mantissa, unless they are told otherwise


def told(model: hr.ReprogramModel) -> torch.Tensor:
    """Outputs for some rows on the device of the base."""
    collator, texts = model.collator(), model.problem_type() == "transcription"
    columns = collator.stack(collator.lay_out(rows_of(model), labelled=texts))
    with torch.no_grad():
        return outputs(model(**{k: v.to(model.backbone.device) for k, v in columns.items()})).float().cpu()


@pytest.mark.parametrize(("kind", "name", "family"), CASES, ids=["-".join(case) for case in CASES])
def test_as_on_the_cpu(kind: str, name: str, family: str, tmp_path: Path) -> None:
    config = config_of(kind, name, family)
    model = build(config, family)
    expected = told(model)
    model.save_pretrained(tmp_path)
    model.to("cuda")
    assert all(p.device.type == "cuda" for p in model.parameters())
    close(told(model), expected, NEAR, "moved")
    base, tokenizer = tiny(family)
    loaded = hr.AutoReprogramModel.from_pretrained(tmp_path, base_model=base.to("cuda"), processing_class=tokenizer)
    close(told(loaded), expected, NEAR, "loaded onto it")


@pytest.mark.parametrize(("kind", "name", "family"), CASES, ids=["-".join(case) for case in CASES])
def test_made_fitted_and_trained_on_it(kind: str, name: str, family: str) -> None:
    base, tokenizer = tiny(family)
    model = hr.get_reprogram_model(base.to("cuda"), config_of(kind, name, family), processing_class=tokenizer)
    rows = rows_of(model)
    if model.active_mapping().needs_fit:
        model.fit_mapping(rows)
    moved = Moved(model)
    train_step(moved)
    if model.active_mapping().options.type != "none":
        assert len(model.predict(unlabelled(rows), progress=False)) == len(rows)
        with torch.no_grad():
            assert torch.isfinite(loss_of(moved, rows))


class Moved:
    """The model, whose collator's columns lie where its base does: what a Trainer does."""

    def __init__(self, model: hr.ReprogramModel) -> None:
        self.model = model

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def __call__(self, **columns: object) -> object:
        device = self.model.backbone.device
        return self.model(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in columns.items()})


def on_gpu(program: str = "prompt", mapping: object = None, family: str = "llama") -> hr.ReprogramModel:
    """A tiny model on the GPU."""
    config = program_config(program, family)
    if mapping is not None:
        config = hr.ReprogramConfig(program=config.program, mapping=mapping, labels=["negative", "positive"])
    base, tokenizer = tiny(family)
    return hr.get_reprogram_model(base.to("cuda"), config, processing_class=tokenizer)


def test_searches_without_gradients() -> None:
    for optimizer in ("auto", "one_plus_one", "spsa"):
        model = on_gpu(mapping=hr.LinearConfig(on="rows", words=[" good", " bad"]))
        found = hr.fit_blackbox(model, ROWS * 2, ROWS, evaluations=12, optimizer=optimizer, progress=False)
        assert found.evaluations <= 12 and next(model.parameters()).device.type == "cuda"


def test_mappings_are_ranked() -> None:
    base, tokenizer = tiny("llama")
    config = hr.ReprogramConfig(program={"type": "none", "template": "{text} it was{answer}"},
                                mapping=hr.LinearConfig(on="source"), labels=["negative", "positive"])  # fmt: skip
    found = hr.search_mappings(base.to("cuda"), config, ROWS * 2, tokenizer)
    assert {"linear", "auto", "labels"} <= {trial.options.type for trial in found.trials}


def test_scores_alone_train_a_table() -> None:
    model = on_gpu("vocabulary", family="bert-classifier")
    assert len(hr.fit_by_score(model, ROWS * 2, epochs=1, samples=2, batch_size=4)) == 1


def test_trainer_in_bfloat16_and_evaluation(tmp_path: Path) -> None:
    model = on_gpu()
    arguments = TrainingArguments(tmp_path, max_steps=2, per_device_train_batch_size=4, bf16=True, report_to=[],
                                  remove_unused_columns=False, save_strategy="no", disable_tqdm=True)  # fmt: skip
    trainer = hr.make_trainer(model, arguments, ROWS, ROWS)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0 and model.evaluate(ROWS)["accuracy"] >= 0


def test_it_writes_and_shares_a_prefix() -> None:
    model = on_gpu()
    assert model.generate(["so good", "my phone broke"], max_new_tokens=3, do_sample=False).device.type == "cuda"
    many = model.score(unlabelled(ROWS * 4), progress=False)
    close(many[: len(ROWS)], model.score(unlabelled(ROWS), progress=False), 1e-4, "of more rows")


def test_features_are_cached(tmp_path: Path) -> None:
    model = on_gpu("none", mapping=hr.LinearConfig(on="state"))
    first, again = (model.frozen_rows(ROWS, tmp_path) for _ in range(2))
    assert torch.equal(torch.as_tensor(first.values), torch.as_tensor(again.values))
    model.fit_mapping(again)
    assert len(model.predict(unlabelled(ROWS), progress=False)) == len(ROWS)
