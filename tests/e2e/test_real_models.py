"""The main path on real weights: causal, masked and seq2seq (slow, or skipped where the models are absent)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, Trainer
from transformers import TrainingArguments as Arguments

import hf_reprogram as hr
from hf_reprogram.backbone.probe import probe
from hf_reprogram.testing import logits_of, state_hash


def _train(model: hr.ReprogramModel, rows: list[dict], folder: Path, steps: int) -> None:
    arguments = Arguments(
        str(folder), remove_unused_columns=False, learning_rate=model.learning_rate, max_steps=steps, report_to=[],
        per_device_train_batch_size=8, save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, data_collator=model.collator()).train()


def _round_trip(model: hr.ReprogramModel, rows: list[dict], folder: Path) -> None:
    model.save_pretrained(folder)
    again = hr.AutoReprogramModel.from_pretrained(folder)
    assert torch.equal(logits_of(again, rows), logits_of(model, rows))


def test_molecules_on_a_masked_model(shared: Path, tmp_path: Path) -> None:
    """ALBERT with embeddings of 128 and states of 256: esters against amides, read at the mask."""
    path = shared / "models/rxn-albert-mlm"
    base, tokenizer = AutoModelForMaskedLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    alkyls = ["C", "CC", "CCC", "CC(C)", "CCCC", "CC(C)C", "C(C)(C)C", "CCCCC"]
    rows = [{"text": f"CC(=O)O{a}", "label": "ester"} for a in alkyls]
    rows += [{"text": f"CC(=O)N{a}", "label": "amide"} for a in alkyls]
    config = hr.ReprogramConfig(
        program=hr.PromptConfig(template="{prompt:4}{text}{prompt:4}{answer}"),
        mapping=hr.VerbalizerConfig(words={"ester": ["O"], "amide": ["N"]}, calibration="batch"),
    )
    model = hr.get_reprogram_model(base, config, tokenizer)
    before = state_hash(base)
    model.fit_mapping(rows)
    start = model.evaluate(rows)["loss"]
    _train(model, rows, tmp_path, 40)
    after = model.evaluate(rows)
    assert after["accuracy"] >= 0.9 and after["loss"] < start / 2
    assert state_hash(base) == before
    _round_trip(model, rows, tmp_path / "program")


def test_spelling_on_a_seq2seq_model(shared: Path, tmp_path: Path) -> None:
    """g2p-BART reads spelling and writes phonemes; its answer slot is the second decoder position (N16)."""
    path = shared / "models/g2p-bart-en-us"
    base, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert max(probe(hr.get_reprogram_model(base, hr.ReprogramConfig(), tokenizer).backbone).values()) < 1e-4
    words = ["banana", "bottle", "butter", "basket", "border", "table", "tunnel", "temper", "ticket", "talent"]
    rows = [{"text": w, "label": w[0]} for w in words]
    config = hr.ReprogramConfig(
        program={"type": "none", "template": "{text}{answer}"},
        mapping=hr.VerbalizerConfig(words={"b": ["b"], "t": ["t"]}),
    )
    model = hr.get_reprogram_model(base, config, tokenizer)
    # The phonemes b and t have the ids of the letters: an untrained reading of the first phoneme is right.
    assert model.evaluate(rows)["accuracy"] == 1.0
    # Turned round, it must be learned.
    turned = hr.ReprogramConfig(
        program=hr.PromptConfig(template="{prompt:6}{text}{answer}"),
        mapping=hr.VerbalizerConfig(words={"b": ["t"], "t": ["b"]}),
    )
    model.add_adapter("turned", turned)
    model.set_adapter("turned")
    start = model.evaluate(rows)["loss"]
    _train(model, rows, tmp_path, 40)
    assert model.evaluate(rows)["loss"] < start
    model.save_pretrained(tmp_path / "program", selected_adapters=["turned"])
    again = hr.AutoReprogramModel.from_pretrained(tmp_path / "program")
    assert torch.equal(logits_of(again, rows), logits_of(model, rows))


@pytest.mark.slow
def test_reviews_on_smollm2(smollm2: Path, tmp_path: Path) -> None:
    import fetch_models

    base = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    rows = [{**r, "label": fetch_models.LABELS[r["label"]]} for r in fetch_models.rows("vader-amazon", "train_32")]
    config = hr.ReprogramConfig(
        program=hr.PromptConfig(
            template="{prompt:5} {text} {prompt:5} It was{answer}",
            init_text=[" Review of the product:", " Overall, the sentiment is"],
        ),
        mapping=hr.VerbalizerConfig(
            words={"negative": [" bad", " terrible"], "positive": [" good", " great"]}, reduce="logsumexp"
        ),
    )
    model = hr.get_reprogram_model(base, config, tokenizer)
    before, start = state_hash(base), model.evaluate(rows)
    _train(model, rows, tmp_path, 12)
    after = model.evaluate(rows)
    assert after["loss"] < start["loss"] / 2 and after["accuracy"] > start["accuracy"]
    assert state_hash(base) == before
    _round_trip(model, rows[:8], tmp_path / "program")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smollm2_is_proved_by_the_probe(smollm2: Path, dtype: torch.dtype) -> None:
    from hf_reprogram.backbone.text import TextBackbone

    probe(TextBackbone(AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype)))
