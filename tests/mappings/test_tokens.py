"""`tokens`: logits of symbols as products with the base's own, their loss, their folded form, what they learn."""

from __future__ import annotations

import math
from pathlib import Path
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.floor import ShapeRecorder
from transformers import TrainingArguments

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.mappings.tokens import Tokens
from hf_reprogram.symbols import stand_ins
from hf_reprogram.testing import tiny


ROWS = [{"text": "ab<mask>d<mask>", "label": "ce"}, {"text": "<mask>", "label": "z"}]


def _model(family: str = "bert", program: Any = None, **options: Any) -> hr.ReprogramModel:
    program = hr.ProjectionConfig(symbols=ascii_lowercase) if program is None else program
    mapping = hr.TokensConfig(**{"symbols": ascii_lowercase, **options})
    base, tokenizer = tiny(family)
    return hr.get_reprogram_model(base, hr.ReprogramConfig(program=program, mapping=mapping), tokenizer)


def _rows(family: str) -> list[dict[str, str]]:
    return (
        ROWS
        if family in ("bert", "roberta", "albert")
        else [{"text": "ab", "label": "cd"}, {"text": "x", "label": "y"}]
    )


def _columns(model: hr.ReprogramModel, rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
    """Laid out as they are learned from, without the labels themselves."""
    return {key: value for key, value in model.collator()(rows).items() if key != "labels"}


class TestLogits:
    @pytest.mark.parametrize("family", ["bert", "roberta", "albert", "llama", "gpt2"])
    def test_they_are_gamma_times_the_base_s_own(self, family: str) -> None:
        """y = gamma (W h + b), whatever stands between h and W in a family."""
        model = _model(family, start="normal")
        columns = _columns(model, _rows(family))
        with torch.no_grad():
            batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
            source = model.backbone.base_output(batch).logits  # (batch, time, vocabulary)
            mapping = model.active_mapping()
            for row, places in enumerate(columns["answer_index"].tolist()):
                for n, at in enumerate(p for p in places if p >= 0):
                    expected = mapping.gamma @ source[row, at] * mapping.unit
                    found = model(**columns).logits[row, n]
                    assert torch.allclose(found, expected, atol=1e-4)

    def test_a_fresh_map_reads_the_tokens_of_the_symbols_names(self) -> None:
        """On rows of the base's own tokens it says what the base says."""
        model = _model(program="none", symbols=["good", "bad", "fine"])
        columns = model.collator()([{"text": "this film is <mask>"}])
        base, tokenizer = tiny("bert")
        with torch.no_grad():
            own = base(columns["input_ids"]).logits[0, 4, tokenizer.convert_tokens_to_ids(["good", "bad", "fine"])]
            assert torch.allclose(model(**columns).logits[0, 0], own, atol=1e-5)

    def test_no_logits_of_the_vocabulary_s_size_are_made(self) -> None:
        model = _model()
        size = model.backbone.head.size
        with ShapeRecorder() as seen:
            model(**model.collator()(ROWS)).loss.backward()
        tables = {(26, size), (size, 26), (size,), (size, 32), (32, size), (1, size), (1, size, 32)}
        assert not [shape for shape in seen.shapes if size in shape and tuple(shape) not in tables]


class TestLoss:
    def test_the_mean_over_what_is_asked_for(self) -> None:
        model = _model()
        out = model(**model.collator()(ROWS))
        each = [
            out.logits[0, 0].log_softmax(0)[2],
            out.logits[0, 1].log_softmax(0)[4],
            out.logits[1, 0].log_softmax(0)[25],
        ]
        assert out.loss.item() == pytest.approx(-sum(e.item() for e in each) / 3, rel=1e-5)

    def test_it_honours_the_count_of_the_whole_step(self) -> None:
        model = _model()
        columns = model.collator()(ROWS)
        assert model(**columns, num_items_in_batch=6).loss.item() == pytest.approx(model(**columns).loss.item() / 2)

    def test_labels_of_another_shape_are_refused(self) -> None:
        model = _model()
        columns = model.collator()(ROWS)
        with pytest.raises(UsageError, match=r"of shape \(2, 1\)"):
            model(**{**columns, "labels": columns["labels"][:, :1]})


class TestForms:
    def test_low_rank_and_free_have_as_many_numbers_as_they_say(self) -> None:
        size = _model().backbone.head.size
        low = _model(form="low_rank", rank=3).active_mapping()
        assert sum(p.numel() for p in low.parameters()) == 3 * (26 + size)
        free = _model(form="free").active_mapping()
        assert sum(p.numel() for p in free.parameters()) == 26 * (32 + 1)

    def test_free_starts_where_full_does(self) -> None:
        for start in ("tokens", "normal"):
            models = [_model(form=form, start=start) for form in ("full", "free")]
            a, b = (m(**m.collator()(ROWS)).logits for m in models)
            assert torch.allclose(a, b, atol=1e-5)

    def test_start_tokens_are_those_of_the_program(self) -> None:
        model = _model()
        assert model.peft_config["default"].mapping.ids == stand_ins(list(ascii_lowercase), tiny("bert")[1])

    @pytest.mark.parametrize("family", ["bert", "llama"])
    @pytest.mark.parametrize("options", [{}, {"start": "normal"}, {"form": "low_rank", "rank": 4}], ids=str)
    def test_folded_is_unfolded(self, family: str, options: dict) -> None:
        model = _model(family, **options)
        options, state = model.active_mapping().fold(model.backbone)
        assert options.form == "free" and {k: tuple(v.shape) for k, v in state.items()} == {
            "rows": (26, 32),
            "bias": (26,),
        }
        folded = _model(family, form="free", start="normal").active_mapping()
        folded.load_state_dict(state)
        columns = _columns(model, _rows(family))
        with torch.no_grad():
            batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
            read = model.backbone.run(batch, model.active_mapping().reading())
            assert torch.allclose(model.active_mapping()(read), folded(read), atol=1e-6)


class TestMeasures:
    def test_by_hand(self) -> None:
        logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.25, 0.25, 0.5], [0, 0, 0]]]) + 1e-12)
        labels = np.array([[0, 2], [2, -100]])
        found = _model().active_mapping().measures(logits, labels)
        assert found["recovery"] == pytest.approx(2 / 3)
        assert found["perplexity"] == pytest.approx(math.exp(-(2 * math.log(0.5) + math.log(0.1)) / 3))

    def test_nothing_that_counts_has_no_measure(self) -> None:
        assert _model().active_mapping().measures(np.zeros((1, 1, 3)), np.array([[-100]])) == {}


class TestLearning:
    """Trained by the ordinary Trainer."""

    @pytest.mark.parametrize("family", ["bert", "llama"])
    def test_a_pattern_is_learned(self, family: str, tmp_path: Any) -> None:
        """Two letters in turn: the base never saw either."""
        mask = "<mask>" if family == "bert" else ""
        rows = [{"text": f"{a}{b}{a}{mask}", "label": b} for a, b in ("xy", "yx", "uv", "vu")] * 4
        model = _model(family)
        arguments = TrainingArguments(
            str(tmp_path), num_train_epochs=12, per_device_train_batch_size=8, remove_unused_columns=False,
            report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True, learning_rate=0.2, seed=0,
        )  # fmt: skip
        trainer = hr.make_trainer(model, arguments, rows, rows[:4])
        before = model.evaluate(rows[:4])
        trainer.train()
        after = model.evaluate(rows[:4])
        assert after["recovery"] == 1.0 > before["recovery"] and after["perplexity"] < 1.5 < before["perplexity"]
        told = trainer.evaluate()
        assert told["eval_recovery"] == 1.0 and told["eval_perplexity"] == pytest.approx(after["perplexity"], rel=1e-3)

    def test_random_masks_teach_too(self, tmp_path: Any) -> None:
        model = _model(mask_rate=0.3)
        rows = [{"text": "abababab"}] * 8
        arguments = TrainingArguments(
            str(tmp_path), num_train_epochs=20, per_device_train_batch_size=8, remove_unused_columns=False,
            report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True, learning_rate=0.1, seed=0,
        )  # fmt: skip
        hr.make_trainer(model, arguments, rows).train()
        assert model.predict("abab<mask>bab")[0]["sequence"] == "abababab"

    def test_all_positions_count_in_the_loss_and_masks_alone_in_the_evaluation(self) -> None:
        model = _model(loss_on="all")
        assert model(**model.collator()(ROWS)).logits.shape[:2] == (2, 7)
        found = model.evaluate(ROWS)  # of the masks alone
        assert set(found) == {"recovery", "perplexity", "loss", "n"} and found["recovery"] * 3 == pytest.approx(
            round(found["recovery"] * 3)
        )

    @pytest.mark.parametrize("family", ["bert", "llama"])
    def test_trainer_counts_what_evaluate_counts(self, family: str, tmp_path: Any) -> None:
        """Recovery, perplexity and loss, and of a test set too; training goes on counting all positions."""
        model = _model(family, loss_on="all", order="once")
        rows = [{"text": "abcdefgh<mask>", "label": "b"}, {"text": "zyx<mask>wvu", "label": "k"}]
        rows = rows if family == "bert" else _rows(family)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=2, remove_unused_columns=False, report_to="none",
            disable_tqdm=True, save_strategy="no", use_cpu=True, learning_rate=1e-9,
        )  # fmt: skip
        trainer = hr.make_trainer(model, arguments, rows, rows)
        own, told, tested = model.evaluate(rows), trainer.evaluate(), trainer.predict(rows).metrics
        for name in ("recovery", "perplexity", "loss"):
            assert told[f"eval_{name}"] == tested[f"test_{name}"] == pytest.approx(own[name], rel=1e-4)
        counted = sum((batch["labels"] >= 0).sum().item() for batch in trainer.get_train_dataloader())
        assert counted == (16 if family == "bert" else 6)  # all symbols of both rows
        assert trainer.train().training_loss == pytest.approx(model(**model.collator()(rows)).loss.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": ""}, r"TokensConfig\.symbols"),
        ({"end": "€"}, r"TokensConfig\.end: '€' is no symbol"),
        ({"form": "low_rank", "start": "tokens"}, "'tokens' with form='low_rank'"),
        ({"form": "low_rank", "rank": 26}, "26 for 26 symbols"),
        ({"order": "random"}, "'random' is not a choice"),
    ],
)
def test_what_cannot_be_meant(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _model(**options)


@pytest.mark.parametrize(
    ("form", "rank", "says"),
    [
        ("full", 8, r"TokensConfig\.form: a table of 4,000 x 250,000, 4\.0 GB.*form='low_rank' or 'free'"),
        ("low_rank", 3000, r"TokensConfig\.rank: rank 3,000 of .* 3\.0 GB.*a smaller one, or form='free'"),
    ],
)
def test_a_table_that_fills_the_memory_is_refused_before_it_is_made(form: str, rank: int, says: str) -> None:
    head = SimpleNamespace(head=SimpleNamespace(size=250_000, width=4096))
    options = hr.TokensConfig(symbols=[f"s{i}" for i in range(4000)], form=form, rank=rank)
    with pytest.raises(ConfigError, match=says):
        Tokens(options, head, options.symbols, "transcription")


def test_a_base_that_is_no_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="'tokens' reads positions, and a BertForSequenceClassification gives"):
        _model("bert-classifier", program="none")


def test_labels_are_the_symbols_in_their_order() -> None:
    mapping = hr.TokensConfig(symbols="ab")
    config = hr.ReprogramConfig(program=hr.ProjectionConfig(symbols="ab"), mapping=mapping, labels=["b", "a"])
    base, tokenizer = tiny("bert")
    with pytest.raises(ConfigError, match=r"labels: \['b', 'a'\]"):
        hr.get_reprogram_model(base, config, tokenizer)


def test_explain_and_weights_name_source_tokens() -> None:
    mapping = _model().active_mapping()
    sources, weights = mapping.weights()
    assert len(sources) == weights.shape[1] and weights.shape[0] == 26
    own = stand_ins(list(ascii_lowercase), tiny("bert")[1])[2]
    assert mapping.explain()["source labels"]["c"] == {own: pytest.approx(1.0)}
    assert _model(form="free").active_mapping().weights() is None
    assert "source labels: {'a': {'a': 1.0}" in str(_model().explain())  # by name


def test_an_end_is_no_part_of_a_text_and_counts_in_its_score() -> None:
    model = _model("llama", end="z")
    with pytest.raises(DataError, match="'cza' has 'z' in it, which ends a text"):
        model.collator()([{"text": "ab", "label": "cza"}])
    with pytest.raises(UsageError, match="predict.top_k.: 3, and the program writes one text"):
        model.predict(["ab"], top_k=3)
    with pytest.raises(UsageError, match="pipeline.num_beams.: an option of the base's own generate"):
        hr.pipeline("text-generation", model)("ab", num_beams=2)


class TestFreshEyes:
    """What a first user stumbled over."""

    ROWS: list[dict[str, str]] = [{"text": text} for text in ("abcdef", "fedcba", "acegik", "zyxwvu")]  # noqa: RUF012

    def test_masks_are_the_same_at_each_evaluation(self, tmp_path: Path) -> None:
        model = _model()
        assert model.evaluate(self.ROWS) == model.evaluate(self.ROWS)
        arguments = TrainingArguments(tmp_path, remove_unused_columns=False, use_cpu=True, report_to=[])
        trainer = hr.make_trainer(model, arguments, self.ROWS, self.ROWS)
        state = torch.get_rng_state()
        assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
        assert torch.equal(torch.get_rng_state(), state)

    def test_another_base_s_mask_token(self) -> None:
        with pytest.raises(DataError, match="position 1 .* mask token, if it has one"):
            _model().predict(["a[mask]b"])

    def test_an_answer_slot_is_a_mask_and_that_is_said(self) -> None:
        base, tokenizer = tiny("bert")
        program = [
            {"type": "prompt", "template": "{prompt:2} {text}{answer}"},
            {"type": "projection", "symbols": "abc"},
        ]
        with pytest.warns(UserWarning, match=r"template: {answer} in .* is a mask like those of the rows"):
            config = hr.ReprogramConfig(program=program, mapping={"type": "tokens", "symbols": "abc"})
            hr.get_reprogram_model(base, config, tokenizer)

    def test_an_empty_label(self) -> None:
        with pytest.raises(DataError, match="'' is empty. Expected a text of symbols. Fix: drop such rows"):
            _model().collator()([{"text": "a<mask>", "label": ""}])

    def test_a_long_row_is_refused_and_not_said_to_be_cut(self, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(DataError, match="300 symbols, and the base has room for 6"):
            _model().predict(["ab" * 150])
        assert not caplog.records

    def test_a_label_and_nothing_that_is_masked(self) -> None:
        with pytest.raises(DataError, match="no '<mask>'. Expected .*Fix: leave the label out"):
            _model().collator()([{"text": "abc", "label": "abc"}])
