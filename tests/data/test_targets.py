"""Positions that are read as symbols: where masks stand, what is right there, what teaches itself."""

from __future__ import annotations

from string import ascii_lowercase

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.data.targets import asking
from hf_reprogram.errors import DataError
from hf_reprogram.testing import build, tiny


def _collator(family: str = "bert", program: object = None, **options: object) -> object:
    program = hr.ProjectionConfig(symbols=ascii_lowercase) if program is None else program
    mapping = hr.TokensConfig(**{"symbols": ascii_lowercase, **options})
    base, tokenizer = tiny(family)
    return hr.get_reprogram_model(base, hr.ReprogramConfig(program=program, mapping=mapping), tokenizer).collator()


def _numbers(text: str) -> list[int]:
    return [ascii_lowercase.index(c) for c in text]


class TestMasks:
    """Of a masked model: the rows of fill-mask and of DataCollatorForLanguageModeling."""

    @pytest.mark.parametrize("label", ["xy", "abxcy"], ids=["what is masked", "the whole text"])
    def test_both_labels_mean_the_same(self, label: str) -> None:
        batch = _collator()([{"text": "ab<mask>c<mask>", "label": label}])
        assert batch["answer_index"].tolist() == [[3, 5]] and batch["labels"].tolist() == [_numbers("xy")]
        assert batch["symbol_index"].tolist() == [[-1, 0, 1, -1, 2, -1, -1]]

    def test_shorter_rows_are_filled_up(self) -> None:
        batch = _collator()([{"text": "<mask>b<mask>", "label": "ac"}, {"text": "a<mask>", "label": "b"}])
        assert batch["answer_index"].tolist() == [[1, 3], [2, -1]]
        assert batch["labels"].tolist() == [_numbers("ac"), [1, -100]]

    def test_an_answer_slot_is_one_more_mask(self) -> None:
        program = hr.ProjectionConfig(symbols=ascii_lowercase, template="{text} is{answer}")
        batch = _collator(program=program)([{"text": "a<mask>", "label": "bc"}])
        assert batch["answer_index"].tolist() == [[2, 4]] and batch["labels"].tolist() == [_numbers("bc")]

    def test_rows_of_the_base_s_own_tokens(self) -> None:
        collator = _collator(program="none", symbols=["good", "bad"])
        batch = collator([{"text": "this film is <mask>", "label": "good"}])
        assert batch["answer_index"].tolist() == [[4]] and batch["labels"].tolist() == [[0]]

    def test_a_text_without_mask_and_label_teaches_itself(self) -> None:
        torch.manual_seed(0)
        collator = _collator(mask_rate=0.3)
        batch = collator([{"text": ascii_lowercase}] * 40)
        counted = batch["labels"] >= 0
        assert counted.sum().item() / (40 * 26) == pytest.approx(0.3, abs=0.04)
        for at, label in zip(batch["answer_index"], batch["labels"], strict=True):
            assert at[at >= 0].tolist() == [1 + i for i in label[label >= 0].tolist()]  # behind <s>
            assert (at >= 0).sum() >= 1
        masked = batch["input_ids"] == tiny("bert")[1].mask_token_id
        assert torch.equal(masked.sum(1), counted.sum(1))
        assert (batch["symbol_index"][masked] == -1).all()

    def test_rows_to_predict_are_never_masked_at_random(self) -> None:
        with pytest.raises(DataError, match=r"rows\[0\]: no '<mask>'"):
            _collator().lay_out([{"text": "abc"}], labelled=False)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"text": "ab<mask>", "label": "xy"}, "a label of 2 symbols, and a row of 3, 1 of them masked"),
            ({"text": "ab<mask>", "label": "acx"}, "'c' at position 1, where the row has another"),
            ({"text": "ab<mask>", "label": "X"}, r"\['label'\]: 'X' at position 0 of 'X' is no symbol"),
            ({"text": "ab<mask>", "label": 3}, "3 is a int.*a text of symbols"),
            ({"text": "a" * 63 + "<mask>", "label": "b"}, "64 symbols, and the base has room for 62"),
        ],
    )
    def test_what_cannot_be_meant(self, row: dict, message: str) -> None:
        with pytest.raises(DataError, match=message):
            _collator()([row])


class TestAllPositions:
    """`loss_on="all"`, as the released code has it."""

    def test_every_symbol_counts_and_specials_where_they_are_symbols(self) -> None:
        names = [*ascii_lowercase, "<s>", "<pad>"]
        batch = _collator(symbols=names, loss_on="all")(
            [{"text": "a<mask>c", "label": "b"}, {"text": "<mask>", "label": "z"}]
        )
        assert batch["answer_index"].tolist() == [list(range(5))] * 2
        assert batch["labels"].tolist() == [[26, 0, 1, 2, -100], [26, 25, -100, 27, 27]]

    def test_the_preset_counts_what_the_released_code_counts_where_specials_are_labels(self) -> None:
        """Its vocabulary has them; of a vocabulary without them there is nothing that padding could be."""
        rows = [{"text": "A<mask>G", "label": "C"}, {"text": "<mask>", "label": "T"}]
        for specials, expected in (
            ([], [[-100, 0, 1, 2, -100], [-100, 3, -100, -100, -100]]),
            (["<pad>", "<s>", "</s>"], [[5, 0, 1, 2, 6], [5, 3, 6, 4, 4]]),
        ):
            base, tokenizer = tiny("bert")
            config = hr.ReprogramConfig.from_preset("reprogbert", labels=[*"ACGT", *specials], loss_on="all")
            batch = hr.get_reprogram_model(base, config, tokenizer).collator()(rows)
            assert batch["labels"].tolist() == expected

    def test_rows_that_are_judged_ask_for_their_masks_alone(self) -> None:
        collator = _collator(loss_on="all")
        judged = asking(collator)
        rows = [{"text": "a<mask>c", "label": "b"}]
        assert judged(rows)["labels"].tolist() == [[1]] and judged(rows)["answer_index"].tolist() == [[2]]
        assert collator(rows)["labels"].tolist() == [[-100, 0, 1, 2, -100]]  # as it was
        writes, plain = _collator("llama", loss_on="all"), _collator()
        rows = [{"text": "ab", "label": "c"}]
        assert asking(writes)(rows)["labels"].tolist() == writes(rows)["labels"].tolist() == [_numbers("abc")]
        assert asking(plain) is plain and asking(list) is list  # a user's own

    def test_rows_to_predict_read_their_masks_alone(self) -> None:
        made = _collator(loss_on="all").lay_out([{"text": "a<mask>c"}], labelled=False)
        assert made[0].reads == [2]


class TestGoingOn:
    """Of a causal model: each symbol is read at the position before it."""

    def test_a_label_goes_on_after_the_row(self) -> None:
        batch = _collator("llama")([{"text": "ab", "label": "xyz"}, {"text": "abc", "label": "d"}])
        assert batch["symbol_index"].tolist() == [[-1, 0, 1, 23, 24], [-1, 0, 1, 2, -1]]
        assert batch["answer_index"].tolist() == [[2, 3, 4], [3, -1, -1]]
        assert batch["labels"].tolist() == [_numbers("xyz"), [3, -100, -100]]

    def test_an_end_is_learned(self) -> None:
        collator = _collator("llama", symbols=[*ascii_lowercase, "."], end=".")
        assert collator([{"text": "ab", "label": "x"}])["labels"].tolist() == [[23, 26]]
        assert collator([{"text": "ab"}])["labels"].tolist() == [[0, 1, 26]]

    def test_a_text_alone_teaches_every_symbol_after_those_before_it(self) -> None:
        batch = _collator("llama")([{"text": "abc"}])
        assert batch["answer_index"].tolist() == [[0, 1, 2]] and batch["labels"].tolist() == [_numbers("abc")]

    def test_rows_to_predict_read_their_last_position(self) -> None:
        made = _collator("llama").lay_out([{"text": "ab"}], labelled=False)
        assert (made[0].reads, made[0].label) == ([2], None)

    def test_a_symbol_that_cannot_stand_in_the_row_cannot_be_gone_on_after(self) -> None:
        collator = _collator("llama", symbols=["a", "€"])
        assert collator([{"text": "b", "label": "€"}])["labels"].tolist() == [[1]]
        with pytest.raises(DataError, match="'€' is read, and cannot stand in a row"):
            collator([{"text": "b", "label": "€a"}])


def test_padding_on_the_left_moves_the_positions() -> None:
    collator = _collator("llama")
    collator.for_writing()
    batch = collator([{"text": "abcd", "label": "e"}, {"text": "a", "label": "b"}])
    assert batch["answer_index"].tolist() == [[4], [4]]


def test_the_collator_travels() -> None:
    import pickle

    collator = pickle.loads(pickle.dumps(_collator()))
    assert collator([{"text": "<mask>", "label": "a"}])["labels"].tolist() == [[0]]


def test_other_mappings_are_laid_out_as_before() -> None:
    from hf_reprogram.testing import program_config

    model = build(program_config("prompt"), "bert")
    batch = model.collator()([{"text": "so good", "label": "positive"}])
    assert batch["answer_index"].ndim == 1 and batch["labels"].tolist() == [1]
