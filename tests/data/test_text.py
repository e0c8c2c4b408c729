"""The collator: labels, length, padding, workers (N11-N13, N17, N19)."""

from __future__ import annotations

import pickle
from dataclasses import replace

import datasets
import pytest
import torch

from hf_reprogram.backbone.text import Facts
from hf_reprogram.data.text import Layout, TextCollator, harmless_id, special_ids
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.symbols import Symbols
from hf_reprogram.template import parse
from hf_reprogram.testing import LABELS, LANGUAGE_MODELS, ROWS, tiny


CAUSAL = Facts("last", 0, "right", 16)
TEMPLATE = "{prompt:2} {text} it was{answer}"


def _collator(
    template: str = TEMPLATE, facts: Facts = CAUSAL, family: str = "llama", **options: object
) -> TextCollator:
    return TextCollator(
        tiny(family)[1], {"default": Layout(parse(template), tuple(LABELS))}, "default", facts, **options
    )


def test_a_batch() -> None:
    batch = _collator()(ROWS[:2])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["slot_index"].shape
    assert batch["labels"].tolist() == [1, 0]
    assert batch["attention_mask"].sum(1).tolist() == [10, 8]  # BOS, 2 slots, the words, "it was"
    assert batch["answer_index"].tolist() == [9, 7]
    assert batch["slot_index"][0, :4].tolist() == [-1, 0, 1, -1]


def test_left_padding_moves_the_answer_with_the_row() -> None:
    right, left = _collator()(ROWS[:2]), _collator(facts=replace(CAUSAL, padding_side="left"))(ROWS[:2])
    assert left["answer_index"].tolist() == [9, 9]
    row = right["input_ids"][1][right["attention_mask"][1].bool()]
    assert torch.equal(left["input_ids"][1, -8:], row)


class TestLength:
    """Only columns are cut, the longest first, from the right."""

    def test_slots_words_and_answer_survive(self) -> None:
        out = _collator().lay_out([{"text": " ".join(["good"] * 50)}])[0]
        assert len(out.ids) == 16
        assert out.slots[1:3] == [0, 1] and out.answer == 15
        tokenizer = tiny("llama")[1]
        assert tokenizer.convert_ids_to_tokens(out.ids[-2:]) == ["Ġit", "Ġwas"]

    def test_the_longest_column_gives_first(self) -> None:
        collator = _collator("{a} {b} so{answer}", replace(CAUSAL, max_length=10))
        tokens = tiny("llama")[1].convert_ids_to_tokens(
            collator.lay_out([{"a": " ".join(["good"] * 20), "b": "bad film"}])[0].ids
        )
        assert tokens == ["<s>", "good", *["Ġgood"] * 5, "Ġbad", "Ġfilm", "Ġso"]

    def test_columns_of_one_length_share_the_cut(self) -> None:
        collator = _collator("{a} {b} so{answer}", replace(CAUSAL, max_length=10))
        ids = collator.lay_out([{"a": " ".join(["good"] * 20), "b": " ".join(["bad"] * 20)}])[0].ids
        tokens = tiny("llama")[1].convert_ids_to_tokens(ids)
        assert (tokens.count("Ġgood") + tokens.count("good"), tokens.count("Ġbad")) == (4, 4)

    def test_it_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        collator, long = _collator(), {"text": " ".join(["good"] * 50)}
        collator.lay_out([{"text": "good"}])
        assert not caplog.messages
        collator.lay_out([long, long])
        assert len(caplog.messages) == 1 and "long rows are cut" in caplog.messages[0]

    def test_no_room_is_an_error_before_the_first_row(self) -> None:
        with pytest.raises(ConfigError, match="leave no room for text"):
            _collator("{prompt:14} {text} it was{answer}")

    def test_the_base_of_64_positions_never_gets_more(self) -> None:
        base, tokenizer = tiny("llama")
        assert base.config.max_position_embeddings == 64
        tokenizer.model_max_length = 10**30
        collator = TextCollator(
            tokenizer, {"default": Layout(parse(TEMPLATE))}, "default", replace(CAUSAL, max_length=64)
        )
        assert collator([{"text": " ".join(["good"] * 203)}])["input_ids"].shape == (1, 64)


class TestLabels:
    """Integers are learned only where something names them (N17)."""

    def test_names(self) -> None:
        assert _collator()([{"text": "good", "label": "positive"}])["labels"].tolist() == [1]

    def test_a_dataset_in_another_order_is_permuted_by_name(self) -> None:
        from hf_reprogram.data.rows import label_names

        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["positive", "negative"])}
        )
        batch = _collator(names=label_names(features))([{"text": "good", "label": 0}, {"text": "bad", "label": 1}])
        assert batch["labels"].tolist() == [1, 0]

    def test_an_integer_that_nothing_names_is_refused(self) -> None:
        with pytest.raises(DataError, match="nothing says which label it means"):
            _collator()([{"text": "good", "label": 1}])

    def test_a_name_that_is_no_label_names_the_nearest(self) -> None:
        with pytest.raises(DataError, match="did you mean 'positive'"):
            _collator()([{"text": "good", "label": "positiv"}])

    def test_labels_on_some_rows_only(self) -> None:
        with pytest.raises(DataError, match="other rows of the batch have one"):
            _collator()([{"text": "good", "label": "positive"}, {"text": "bad"}])

    @pytest.mark.parametrize("label", [2, -1])
    def test_an_integer_outside(self, label: int) -> None:
        with pytest.raises(DataError, match="outside the labels"):
            _collator(names=LABELS)([{"text": "good", "label": label}])


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_the_harmless_id_is_no_special_token(family: str) -> None:
    tokenizer = tiny(family)[1]
    assert harmless_id(tokenizer) not in tokenizer.all_special_ids


@pytest.mark.parametrize(("family", "around"), [("llama", 1), ("bert", 2), ("t5", 1)])
def test_specials_round_the_row(family: str, around: int) -> None:
    before, after = special_ids(tiny(family)[1])
    assert len(before) + len(after) == around


def test_pickles_small_and_gives_the_same() -> None:
    collator = _collator()
    again = pickle.loads(pickle.dumps(collator))
    ours, theirs = collator(ROWS), again(ROWS)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    own = len(pickle.dumps(collator)) - len(pickle.dumps(collator.tokenizer))
    assert own < 6000, f"{own} bytes beside the tokenizer"


def test_padding_stands_on_masks_not_on_ids() -> None:
    """eos == pad in SmolLM2: a mask made from ids would hide real tokens."""
    batch = _collator()(ROWS)
    lengths = [len(row.ids) for row in _collator().lay_out(ROWS)]
    assert batch["attention_mask"].sum(1).tolist() == lengths


class TestSymbols:
    """Rows of a language that the base never read."""

    def _collator(self, **options: object) -> TextCollator:
        layout = Layout(parse("{prompt:1} {text} it was{answer}"), tuple(LABELS), symbols=Symbols(("A", "C", "G")))
        return TextCollator(tiny("bert")[1], {"default": layout}, "default", Facts("mask", 0, "right", 12), **options)

    def test_columns_are_symbols_and_the_templates_words_are_not(self) -> None:
        batch = self._collator()([{"text": "GAC"}, {"text": "A"}])
        # [CLS] slot G A C it was [MASK] [SEP]
        assert batch["symbol_index"].tolist() == [[-1, -1, 2, 0, 1, *[-1] * 4], [-1, -1, 0, *[-1] * 6]]
        tokenizer = tiny("bert")[1]
        plain = batch["input_ids"][0][batch["symbol_index"][0] < 0].tolist()
        assert tokenizer.convert_ids_to_tokens(plain)[2:-1] == ["it", "was", tokenizer.mask_token]
        assert set(batch["input_ids"][batch["symbol_index"] >= 0].tolist()) == {harmless_id(tokenizer)}
        assert batch["answer_index"].tolist() == [7, 5]

    def test_the_mask_token_stays_the_bases_own(self) -> None:
        batch = self._collator()([{"text": f"G{tiny('bert')[1].mask_token}C"}])
        assert batch["symbol_index"][0, 2:5].tolist() == [2, -1, 1]
        assert batch["input_ids"][0, 3] == tiny("bert")[1].mask_token_id

    def test_a_long_column_is_cut(self) -> None:
        batch = self._collator()([{"text": "ACG" * 20}])
        assert batch["symbol_index"].tolist() == [[-1, -1, 0, 1, 2, 0, 1, 2, *[-1] * 4]]

    def test_a_disabled_program_reads_the_bases_own_tokens(self) -> None:
        batch = self._collator(disabled=True)([{"text": "film"}])
        assert "symbol_index" not in batch
        assert "film" in tiny("bert")[1].convert_ids_to_tokens(batch["input_ids"][0].tolist())

    def test_left_padding(self) -> None:
        collator = self._collator()
        collator.facts = replace(collator.facts, padding_side="left")
        assert collator([{"text": "GAC"}, {"text": "A"}])["symbol_index"][1].tolist() == [*[-1] * 4, 0, *[-1] * 4]

    def test_no_symbol_is_an_error_of_its_row(self) -> None:
        with pytest.raises(DataError, match=r"rows\[1\]\['text'\]: 'U' at position 1"):
            self._collator()([{"text": "A"}, {"text": "AU"}])
