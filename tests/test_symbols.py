"""Target symbols: how a text falls into them, where they come from, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.symbols import MARKS, MOST, Symbols, check_symbols, check_table, stand_ins, target_symbols
from hf_reprogram.testing import tiny


SMILES = Symbols(("C", "Cl", "l", "O", "(", ")"))


def test_the_longest_symbol_is_taken_from_the_left() -> None:
    assert SMILES.read("CCl(O)") == [0, 1, 4, 3, 5]


def test_spaces_part_words_or_are_left_out() -> None:
    codons = Symbols(("ATG", "TAA"), spaced=True)
    assert codons.read("ATG  TAA ATG") == [0, 1, 0]
    assert Symbols(("A", "B")).read("A B\nA") == [0, 1, 0]
    assert Symbols(("A", " ")).read("A A") == [0, 1, 0]


def test_the_bases_own_words_pass() -> None:
    assert SMILES.read("C<mask>O", {"<mask>": 4}) == [0, ~4, 3]


def test_an_unknown_symbol_is_named_with_its_place() -> None:
    with pytest.raises(DataError, match=r"rows\[3\]: 'B' at position 2 of 'COB' is no symbol"):
        SMILES.read("COB", where="rows[3]")
    with pytest.raises(DataError, match="'CTG' at position 4"):
        Symbols(("ATG",), spaced=True).read("ATG CTG")
    assert Symbols(("A", "X"), unknown="X").read("ABA") == [0, 1, 0]
    assert Symbols(("AT", "X"), unknown="X", spaced=True).read("AT GG AT") == [0, 1, 0]


def _trained(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a few words, of a kind."""
    made: dict[str, tuple[Any, Any, Any, Any]] = {
        "WordPiece": (
            models.WordPiece(unk_token="<s>"), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(),
            trainers.WordPieceTrainer(vocab_size=60, special_tokens=["<s>"], show_progress=False),
        ),
        "byte-level BPE": (
            models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(),
            trainers.BpeTrainer(
                vocab_size=290, special_tokens=["<s>"], show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            ),
        ),
        "SentencePiece": (
            models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(),
            trainers.UnigramTrainer(vocab_size=40, special_tokens=["<s>"], unk_token="<s>", show_progress=False),
        ),
        "BPE of words' ends": (
            models.BPE(end_of_word_suffix="</w>"), pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>"),
            trainers.BpeTrainer(
                vocab_size=60, special_tokens=["<s>"], show_progress=False, end_of_word_suffix="</w>"
            ),
        ),
    }  # fmt: skip
    model, before, decoder, trainer = made[kind]
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = before, decoder
    backend.train_from_iterator(["good film, goodness of films, a good film is good"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<s>")


class TestSources:
    """From a tokenizer, a file, texts."""

    def test_texts_give_their_characters(self) -> None:
        assert target_symbols(["GAT TACA", "TA"]) == ["A", "C", "G", "T"]

    def test_a_tokenizer_gives_its_vocabulary_without_specials(self) -> None:
        tokenizer = tiny("bert")[1]
        found = target_symbols(tokenizer)
        assert not set(found) & set(tokenizer.all_special_tokens)
        assert found == sorted(found, key=tokenizer.convert_tokens_to_ids) and "film" in found

    @pytest.mark.parametrize("family", ["bert", "llama", "t5"])
    def test_tokens_are_taken_as_they_read_in_a_text(self, family: str) -> None:
        """Whole words, byte-level with a space before a word, SentencePiece."""
        found = target_symbols(tiny(family)[1])
        assert len(set(found)) == len(found) and not any(x.startswith(MARKS) for x in found)
        assert [found[i] for i in Symbols(tuple(found)).read("so good film")] == ["so", "good", "film"]

    @pytest.mark.parametrize("kind", ["WordPiece", "byte-level BPE", "SentencePiece", "BPE of words' ends"])
    def test_trained_tokenizers(self, kind: str) -> None:
        found = target_symbols(_trained(kind))
        assert len(set(found)) == len(found) and "<s>" not in found and not any(x.startswith(MARKS) for x in found)
        read = [found[i] for i in Symbols(tuple(found)).read("good goodness, film")]
        assert "".join(read) == "goodgoodness,film" and read[0] == "good"

    def test_marks_of_other_tokenizers_are_plain_text(self) -> None:
        """Real vocabularies hold `####`, and Maltese words; not BERT's rows that are kept free."""
        backend = Tokenizer(models.WordLevel({"####": 0, "▁Ġorġ": 1, "Ġ": 2, "[unused7]": 3, "[NH]": 4}, "####"))
        backend.decoder = decoders.Metaspace()
        assert target_symbols(PreTrainedTokenizerFast(tokenizer_object=backend)) == ["####", "Ġorġ", "Ġ", "[NH]"]

    def test_bytes_of_a_character_are_no_symbols(self) -> None:
        found = target_symbols(_trained("byte-level BPE"))
        assert all(x == x.strip() and "\ufffd" not in x for x in found) and {"a", "~"} <= set(found)

    def test_a_tokenizer_that_does_not_say_its_texts_is_refused(self) -> None:
        tokenizer = _trained("byte-level BPE")
        tokenizer.backend_tokenizer.decoder = None
        with pytest.raises(ConfigError, match=r"a \w+ \(BPE\) without a decoder.*'Ġ\w+'.*WordLevel"):
            target_symbols(tokenizer)

    def test_a_file_gives_its_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "vocab.txt"
        path.write_text("Cl\nC\n\nO\n")
        assert target_symbols(path) == target_symbols(str(path)) == ["Cl", "C", "O"]

    @pytest.mark.parametrize("source", [[], [" "], "no/such/file.txt"])
    def test_nothing_is_refused(self, source: object) -> None:
        with pytest.raises(ConfigError, match="symbol"):
            target_symbols(source)


@pytest.mark.parametrize(
    ("symbols", "unknown", "message"),
    [
        ("", None, "''"),
        ("ABA", None, "'A' stands twice"),
        (["A", ""], None, "an empty symbol"),
        ("AB", "X", r"Options\.unknown: 'X' is no symbol"),
        ([str(i) for i in range(MOST + 1)], None, "65,537 symbols"),
    ],
)
def test_symbols_that_cannot_be_meant(symbols: object, unknown: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_symbols(symbols, unknown, "Options.symbols")


def test_symbols_are_written_as_they_are_read() -> None:
    assert SMILES.write(SMILES.read("CCl(O)")) == "CCl(O)"
    assert Symbols(("ATG", "TAA"), spaced=True).write([0, 1, 0]) == "ATG TAA ATG"


class TestStandIns:
    """Tokens of the base in the place of symbols."""

    def test_a_symbol_s_own_name_stands_for_it_and_others_are_drawn_once(self) -> None:
        tokenizer = tiny("bert")[1]
        names = ["film", "x", "y", "good", "z"]
        found = stand_ins(names, tokenizer)
        assert tokenizer.convert_ids_to_tokens([found[0], found[3]]) == ["film", "good"]
        assert len(set(found)) == 5 and not set(found) & set(tokenizer.all_special_ids)
        assert stand_ins(names, tokenizer) == found  # input and output agree on it

    def test_a_small_vocabulary_gives_tokens_twice(self) -> None:
        tokenizer = tiny("bert")[1]
        found = stand_ins([f"symbol {i}" for i in range(200)], tokenizer)
        assert len(found) == 200 > len(tokenizer) and not set(found) & set(tokenizer.all_special_ids)


def test_a_table_too_large_says_its_size() -> None:
    check_table(30, 250_000, None, "Options.form", "less")
    with pytest.raises(ConfigError, match=r"60,000 x 30,522, 7\.3 GB.*at most 500,000,000 numbers\. Fix: less"):
        check_table(60_000, 30_522, None, "Options.form", "less")
    check_table(60_000, 250_000, 1000, "Options.rank", "less")
    with pytest.raises(ConfigError, match=r"rank: rank 4,000 of a table of 60,000 x 250,000, 5\.0 GB"):
        check_table(60_000, 250_000, 4000, "Options.rank", "less")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([{"text": "AB", "label": "x"}], r"is a dict. Expected texts. Fix: \[row\["),
        ("GATTACA", r"'GATTACA' is no file.*Fix: \['GATTACA'\]"),
    ],
)
def test_what_is_no_source_of_symbols(source: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        target_symbols(source)
