"""Golden layouts: how a template reads on real tokenizers of the three kinds (N14, N16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertTokenizer

from hf_reprogram.backbone.text import Facts
from hf_reprogram.data.text import Layout, TextCollator
from hf_reprogram.template import parse


TEMPLATE = "{prompt:2} {text} {prompt:1} It was{answer}"
ROW = {"text": "Stopped working after a week."}
CAUSAL, MASKED = Facts("last", 0, "right", 128), Facts("mask", 0, "right", 128)


def _read(tokenizer: Any, facts: Facts, template: str, row: dict) -> tuple[list[str], int | None]:
    """The row as tokens, with `#n` for slot n, and where the answer is read."""
    out = TextCollator(tokenizer, {"default": Layout(parse(template))}, "default", facts).lay_out([row])[0]
    tokens = tokenizer.convert_ids_to_tokens(out.ids)
    return [f"#{slot}" if slot >= 0 else t for t, slot in zip(tokens, out.slots, strict=True)], out.answer


def test_bpe_keeps_the_space_with_the_word_that_follows_it(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokens, answer = _read(tokenizer, CAUSAL, TEMPLATE, ROW)
    assert tokens == ["#0", "#1", "ĠStop", "ped", "Ġworking", "Ġafter", "Ġa", "Ġweek", ".", "#2", "ĠIt", "Ġwas"]
    assert answer == len(tokens) - 1


def test_bpe_without_slots_reads_as_the_plain_text(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokens, _ = _read(tokenizer, CAUSAL, "{text} It was{answer}", ROW)
    assert tokens == tokenizer.tokenize("Stopped working after a week. It was")


def test_wordpiece_sets_its_specials_once_round_the_row(minilm: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(minilm)
    tokens, answer = _read(tokenizer, MASKED, "{prompt:2} {text} It was {answer}.", ROW)
    expected = [
        "[CLS]",
        "#0",
        "#1",
        "stopped",
        "working",
        "after",
        "a",
        "week",
        ".",
        "it",
        "was",
        "[MASK]",
        ".",
        "[SEP]",
    ]
    assert tokens == expected
    assert answer == expected.index("[MASK]")


def test_sentencepiece_gets_no_doubled_space(mistral_tokenizer: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mistral_tokenizer)
    tokens, answer = _read(tokenizer, CAUSAL, TEMPLATE, ROW)
    assert tokens == ["#0", "#1", "▁Stop", "ped", "▁working", "▁after", "▁a", "▁week", ".", "#2", "▁It", "▁was"]
    assert answer == len(tokens) - 1
    assert "▁" not in tokens


@pytest.mark.parametrize("words", ["\nIt was", " It was"])
def test_words_are_tokenised_as_they_stand(smollm2: Path, words: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokens, _ = _read(tokenizer, CAUSAL, "{text}{prompt:1}" + words + "{answer}", {"text": "Fine"})
    assert tokens == [*tokenizer.tokenize("Fine"), "#0", *tokenizer.tokenize(words)]


def test_characters_of_a_spelling_model_and_molecules(shared: Path) -> None:
    letters = AutoTokenizer.from_pretrained(shared / "models/g2p-bart-en-us")
    tokens, answer = _read(letters, Facts("decoder", 1, "right", 64), "{prompt:2}{text}{answer}", {"text": "cat"})
    assert (tokens, answer) == (["<s>", "#0", "#1", "c", "a", "t", "</s>"], 1)
    smiles = AutoTokenizer.from_pretrained(shared / "models/rxn-albert-mlm")
    tokens, answer = _read(smiles, MASKED, "{prompt:1}{text}{answer}OCC", {"text": "CC(=O)O"})
    assert tokens == ["[CLS]", "#0", "C", "C", "(", "=", "O", ")", "O", "[MASK]", "O", "C", "C", "[SEP]"]
    assert tokens[answer] == "[MASK]"
