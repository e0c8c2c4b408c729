"""Languages of chains: how their texts fall into tokens."""

from __future__ import annotations

import pytest
from assets.chains import ATOMS, RESIDUES, symbol_tokenizer


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(
    ("pattern", "own", "text", "tokens"),
    [
        (RESIDUES, ["A", "C", "W"], "CA[MASK] W", ["C", "A", "[MASK]", "W"]),
        (RESIDUES, ["A"], "AZ", ["A", "[UNK]"]),
        (ATOMS, ["C", "Cl", "[nH]", ">>", "="], "ClC=[nH]>>C", ["Cl", "C", "=", "[nH]", ">>", "C"]),
    ],
)
def test_a_text_falls_into_symbols(pattern: str, own: list[str], text: str, tokens: list[str]) -> None:
    tokenizer = symbol_tokenizer([*SPECIAL, *own], pattern)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", *tokens, "[SEP]"]
    assert tokenizer.mask_token == "[MASK]" and tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
