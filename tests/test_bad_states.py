"""Calls at the wrong time or on the wrong kind of model, and training that could not teach: said, not suffered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import DataError, ReprogramError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, build, flags, mapping_config, program_config, state_hash, tiny
from hf_reprogram.training.trainer import make_trainer
from tests.artefact_kit import KINDS, check, nothing_changes


def _raw(kind: str, family: str = "llama") -> ReprogramModel:
    """A model whose mapping is not fitted yet."""
    base, tokenizer = tiny(family)
    return get_reprogram_model(base, ReprogramConfig(**KINDS[kind]), processing_class=tokenizer)


@pytest.mark.parametrize("kind", ["batch", "ridge", "logistic"])
class TestUnfittedMapping:
    """A map that was never estimated would give numbers that mean nothing."""

    def test_gives_no_scores(self, kind: str) -> None:
        model = _raw(kind)
        base = model.backbone.base
        found = flags(base), state_hash(base)
        for call in (model.predict, model.score, model.evaluate, lambda rows: model(**model.collator()(rows))):
            with pytest.raises(UsageError) as error:
                call(ROWS)
            check(error.value, "'default' ... must be fitted ... fit_mapping(rows) ... make_trainer")
        assert (flags(base), state_hash(base)) == found
        assert not model.training and model.active_mapping().needs_fit
        model.fit_mapping(ROWS)
        assert len(model.predict(ROWS)) == len(ROWS)

    def test_stays_unfitted_when_saved(self, kind: str, tmp_path: Path) -> None:
        _raw(kind).save_pretrained(tmp_path)
        again = ReprogramModel.from_pretrained(*tiny("llama")[:1], tmp_path, processing_class=tiny("llama")[1])
        with pytest.raises(UsageError, match="must be fitted"):
            again.predict("good")

    def test_spoils_only_its_own_rows(self, kind: str) -> None:
        model = build(program_config("prompt"), "llama")
        model.add_adapter("raw", ReprogramConfig(**KINDS[kind]))
        with nothing_changes(model), pytest.raises(UsageError, match="mapping of 'raw'.*must be fitted"):
            model.predict([{"text": "good"}, {"text": "good", "adapter": "raw"}])

    def test_needs_rows_to_fit(self, kind: str) -> None:
        model = _raw(kind)
        with pytest.raises(UsageError) as error:
            model.fit_mapping()
        check(error.value, "fit_mapping(rows) ... None ... rows to estimate the mapping from")
        for rows in ([], [{"text": ""}], [{"txt": "good"}]):
            with pytest.raises(DataError):
                model.fit_mapping(rows)
        assert model.active_mapping().needs_fit


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "good"}] * 3, "fit_mapping(rows) ... rows without labels ... 'linear' learns from them"),
        (
            [{"text": text, "label": "positive"} for text in ("good", "so good", "bad")],
            "fit_mapping(rows) ... no row of ['negative'] ... every label",
        ),
        (
            [{"text": "good", "label": label} for label in ("positive", "negative")],
            "fit_mapping(rows) ... the base gives the same for all 2 rows ... template",
        ),
        ([{"text": "good", "label": 1}] * 3, "rows[0]['label'] ... nothing says which label it means"),
    ],
)
def test_rows_that_a_closed_form_cannot_learn_from(kind: str, rows: list[dict], says: str) -> None:
    model = _raw(kind)
    with pytest.raises(DataError) as error:
        model.fit_mapping(rows)
    check(error.value, says)
    assert model.active_mapping().needs_fit
    fitted = build(ReprogramConfig(**KINDS[kind]), "llama")
    with nothing_changes(fitted), pytest.raises(DataError):
        fitted.fit_mapping(rows)


WITHOUT_LABELS: dict[str, Callable[[ReprogramModel], Any]] = {
    "predict": lambda m: m.predict("good"),
    "evaluate": lambda m: m.evaluate(ROWS),
    "labels": lambda m: m.label_names(),
    "score": lambda m: m.score(["good", "good film"]),
    "training rows": lambda m: m.collator()(ROWS),
}


@pytest.mark.parametrize("call", WITHOUT_LABELS.values(), ids=WITHOUT_LABELS)
def test_a_program_without_mapping_has_no_labels(call: Callable[[ReprogramModel], Any]) -> None:
    model = build(ReprogramConfig(), "llama")
    with nothing_changes(model), pytest.raises(ReprogramError, match="labels"):
        call(model)


class TestWrongKindOfBase:
    def test_a_masked_model_writes_nothing(self) -> None:
        # "'BertForMaskedLM' object has no attribute 'generate'".
        model = build(program_config("prompt"), "bert")
        with nothing_changes(model), pytest.raises(UsageError, match="generate: .*BertForMaskedLM.*"):
            model.generate("good", max_new_tokens=2)

    def test_t5_cannot_skip_the_slots_of_a_disabled_program(self) -> None:
        """N24: its positions are relative, and masked ones still count."""
        model = build(program_config("prompt"), "t5")
        columns = model.collator()(ROWS)
        with nothing_changes(model), model.disable_adapter():
            with pytest.raises(UsageError) as error:
                model(**columns)
            check(error.value, "disable_adapter ... T5ForConditionalGeneration ... model.collator(disabled=True)")

    def test_programs_that_read_differently_share_no_pass(self) -> None:
        """One of them has no mapping: its outputs are no labels."""
        model = build(program_config("prompt"), "llama")
        model.add_adapter("plain", ReprogramConfig())
        with nothing_changes(model), pytest.raises(ReprogramError, match="plain|adapter_names|labels"):
            model.predict([{"text": "good"}, {"text": "good", "adapter": "plain"}])


def _arguments(folder: Path, **changes: Any) -> TrainingArguments:
    values = {"max_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    return TrainingArguments(
        str(folder), **{**values, "remove_unused_columns": False, "learning_rate": 0.05, **changes}
    )


def _dataset(names: list[str]) -> datasets.Dataset:
    """The rows with integer labels in the order of these names."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {"text": [r["text"] for r in ROWS], "label": [names.index(r["label"]) for r in ROWS]}
    return datasets.Dataset.from_dict(rows, features=features)


class TestTraining:
    @pytest.fixture
    def model(self) -> ReprogramModel:
        """A prompt with a verbalizer."""
        return build(program_config("prompt"), "llama")

    @pytest.fixture
    def quiet(self) -> Iterator[None]:
        """No warning of ours."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="learning rate")
            yield

    @pytest.mark.parametrize("rows", [ROWS, _dataset(["negative", "positive"])], ids=["a list", "a dataset"])
    def test_columns_that_trainer_dropped(self, model: ReprogramModel, rows: Any, tmp_path: Path) -> None:
        """N12: `remove_unused_columns` is true by default and leaves rows without text."""
        collator = model.collator(features=["negative", "positive"])
        trainer = Trainer(model, _arguments(tmp_path, remove_unused_columns=True), collator, train_dataset=rows)
        with nothing_changes(model.eval()):
            for call in (trainer.train, lambda: trainer.evaluate(rows), lambda: trainer.predict(rows)):
                with pytest.raises(UsageError) as error:
                    call()
                check(error.value, "['text'] ... missing: the row has only ['label'] ... remove_unused_columns=False")
                model.eval()
            with pytest.raises(UsageError, match="remove_unused_columns: True, which drops the rows' columns"):
                make_trainer(model, _arguments(tmp_path, remove_unused_columns=True), rows)

    @pytest.mark.parametrize("names", [["negative", "positive"], ["positive", "negative"]])
    def test_a_dataset_in_any_order_is_learned_by_name(
        self, model: ReprogramModel, names: list[str], tmp_path: Path
    ) -> None:
        """N17: [positive, negative] in the data and [negative, positive] in the config swapped without a word."""
        dataset = _dataset(names)
        trainer = make_trainer(model, _arguments(tmp_path), dataset, eval_dataset=dataset)
        expected = [model.label_names().index(row["label"]) for row in ROWS]
        for collate in (
            trainer.data_collator,
            model.collator(features=dataset.features),
            model.collator(features=names),
        ):
            assert collate(list(dataset))["labels"].tolist() == expected
        assert model.evaluate(dataset, features=dataset.features) == model.evaluate(ROWS)

    def test_a_dataset_without_a_word_on_its_order_is_refused(self, model: ReprogramModel, tmp_path: Path) -> None:
        dataset = _dataset(["negative", "positive"])
        trainer = Trainer(model, _arguments(tmp_path), model.collator(), train_dataset=dataset)
        with pytest.raises(DataError, match="nothing says which label it means.*features=dataset.features"):
            trainer.train()

    @pytest.mark.parametrize("rate", [1e-4, 5e-5, 1e-6])
    def test_a_rate_that_hardly_moves_a_program(self, model: ReprogramModel, rate: float, tmp_path: Path) -> None:
        """U§1: transformers' own default teaches a prompt nothing, and nothing says so."""
        trainer = Trainer(
            model, _arguments(tmp_path, learning_rate=rate, max_steps=3), model.collator(), train_dataset=ROWS
        )
        with pytest.warns(UserWarning, match=rf"learning rate {rate:g}.*model\.learning_rate is 0\.07") as seen:
            trainer.train()
        assert sum("learning rate" in str(w.message) for w in seen) == 1

    @pytest.mark.usefixtures("quiet")
    @pytest.mark.parametrize("rate", [1.01e-4, 0.07])
    def test_any_other_rate_is_the_users_business(self, model: ReprogramModel, rate: float, tmp_path: Path) -> None:
        Trainer(model, _arguments(tmp_path, learning_rate=rate), model.collator(), train_dataset=ROWS).train()

    @pytest.mark.usefixtures("quiet")
    def test_nor_is_one_warned_without_slots(self, tmp_path: Path) -> None:
        config = ReprogramConfig(**{**KINDS["gradient"], "program": "none"})
        model = build(config, "llama")
        Trainer(model, _arguments(tmp_path, learning_rate=1e-4), model.collator(), train_dataset=ROWS).train()

    def test_nothing_that_trains(self, tmp_path: Path) -> None:
        model = build(ReprogramConfig(**KINDS["words-only"]), "llama")
        with nothing_changes(model), pytest.raises(UsageError) as error:
            make_trainer(model, _arguments(tmp_path), ROWS)
        check(error.value, "model ... nothing trains ... a program or mapping with parameters")

    @pytest.mark.parametrize("rows", [None, [], 7])
    def test_no_rows(self, model: ReprogramModel, rows: Any, tmp_path: Path) -> None:
        with nothing_changes(model), pytest.raises(DataError, match="rows"):
            make_trainer(model, _arguments(tmp_path), rows)


def test_a_loss_that_is_no_number_is_not_saved(tmp_path: Path) -> None:
    """A rate far too high: the artefact that was there stays."""
    from hf_reprogram.errors import ArtefactError

    model = build(mapping_config("verbalizer"), "llama")
    model.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with torch.no_grad():
        model.active_programs()[0].slots.mul_(float("nan"))
    with pytest.raises(ArtefactError, match="nothing was written; train with a lower rate"):
        model.save_pretrained(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
