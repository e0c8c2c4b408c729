"""The main path on real weights: causal, masked and seq2seq (slow, or skipped where the models are absent)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Trainer,
)
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


def test_a_bare_encoder_reads_the_mean_of_its_states(minilm: Path, tmp_path: Path) -> None:
    """MiniLM has no head: its mean state is that of transformers' own forward, and a ridge on it tells topics."""
    base, tokenizer = AutoModel.from_pretrained(minilm), AutoTokenizer.from_pretrained(minilm)
    food = ["A man is eating food.", "She cooks a spicy soup.", "The bread is fresh.", "They had rice for lunch."]
    money = [
        "The stock market fell.",
        "Banks raised their rates.",
        "Shares rose by a tenth.",
        "The price of oil sank.",
    ]
    rows = [{"text": t, "label": "food"} for t in food] + [{"text": t, "label": "money"} for t in money]
    config = hr.ReprogramConfig(mapping=hr.LinearConfig(pool="mean"), labels=["food", "money"])
    model = hr.get_reprogram_model(base, config, tokenizer)
    columns = model.collator(disabled=True)([{"text": t} for t in food])
    ours = model.reprogrammed.readout(columns, hr.Reading("state", pool="mean"))
    plain = tokenizer(food, padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = base(**plain).last_hidden_state, plain["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(ours, (states * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=0)
    model.fit_mapping(rows)
    found = model.predict(["The soup was too salty.", "Investors sold their bonds."])
    assert [row["label"] for row in found] == ["food", "money"]
    _round_trip(model, rows, tmp_path / "program")


def test_words_of_several_tokens_have_the_probability_that_the_model_gives_them(smollm2: Path) -> None:
    """ " New York" against transformers' own loss of the same continuation."""
    base, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)
    words = {"city": [" New York City"], "town": [" Vladivostok"]}
    config = hr.ReprogramConfig(
        program=hr.NoneConfig(template="{text}{answer}"), mapping=hr.VerbalizerConfig(words=words)
    )
    model = hr.get_reprogram_model(base, config, tokenizer)
    text = "The Statue of Liberty stands in"
    scores = logits_of(model, [{"text": text}])[0]
    for score, (word,) in zip(scores, words.values(), strict=True):
        head, tail = (tokenizer(t, return_tensors="pt", add_special_tokens=False)["input_ids"] for t in (text, word))
        labels = torch.cat([torch.full_like(head, -100), tail], 1)
        with torch.no_grad():
            loss = base(input_ids=torch.cat([head, tail], 1), labels=labels).loss
        assert tail.shape[1] > 1
        assert score.item() == pytest.approx(-loss.item() * tail.shape[1], abs=1e-3)
    assert model.predict(text)[0]["label"] == "city"
