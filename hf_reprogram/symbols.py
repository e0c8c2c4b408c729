"""Target symbols: the vocabulary of a language that the base never read. Pure text, no torch.

A program that says `symbols` has the columns of its rows read as such symbols; fixed words of the template stay words
of the base.

Example:

    >>> dna = Symbols(("A", "C", "G", "T"))
    >>> dna.read("GATTACA")
    [2, 0, 3, 3, 0, 1, 0]
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import ConfigError, DataError, did_you_mean


MOST = 65_536  # more symbols than any table of a few kilobytes could hold: a file of something else
MASK = re.compile(r"[<\[]mask[>\]]", re.IGNORECASE)  # as tokenizers write it: one of them is not this base's
MARKS = ("▁", "Ġ")  # that tokenizers write for a space; their decoders take them off
UNUSED = re.compile(r"\[unused\d+\]")  # rows that BERT keeps free: no text
COMMON = 5_000  # ids are sorted by frequency in most vocabularies: the first are words, not fragments (T§1.2)
NUMBERS = 500_000_000  # of a table symbols x vocabulary: 2 GB, and four times that with gradient and Adam's moments


@dataclass(frozen=True)
class Symbols:
    """Symbols in order of their numbers, and how a text falls into them.

    Args:
        names: the symbols, each once.
        unknown: the symbol that stands for everything else; None refuses it.
        spaced: whether symbols are words between spaces; else the longest symbol that fits is taken, from the left,
            and spaces that are no symbols themselves are left out.
    """

    names: tuple[str, ...]
    unknown: str | None = None
    spaced: bool = False

    @cached_property
    def number(self) -> dict[str, int]:
        """Symbol -> its number."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(name) for name in self.names}, reverse=True)

    def read(self, text: str, passed: Mapping[str, int] | None = None, where: str = "text") -> list[int]:
        """Numbers of the symbols of a text; of words that `passed` names, such as the base's mask token, ~ of theirs.

        Args:
            text: the text.
            passed: word -> id, both of the base.
            where: how errors name the text.

        Returns:
            Numbers from 0; ~id, below 0, of passed words.

        Raises:
            DataError: a symbol that is none.

        Example:

            >>> Symbols(("A", "B")).read("AB[MASK]", {"[MASK]": 103})
            [0, 1, -104]
        """
        passed = passed or {}
        found: list[int] = []
        at = 0
        while at < len(text):
            word = next((w for w in passed if text.startswith(w, at)), None)
            symbol = None if word else self._next(text, at)
            if word is not None:
                found.append(~passed[word])
                at += len(word)
            elif symbol in self.number:
                found.append(self.number[symbol])
                at += len(symbol)
            elif text[at].isspace():
                at += 1
            else:
                odd = symbol if self.spaced else text[at]
                found.append(self._odd(odd, text, at, where))
                at += len(odd)
        return found

    def write(self, numbers: Sequence[int]) -> str:
        """The text of some symbols."""
        return (" " if self.spaced else "").join(self.names[i] for i in numbers)

    def _next(self, text: str, at: int) -> str | None:
        """The symbol that begins here: the longest that fits, or the word up to the next space."""
        if self.spaced:
            return text[at:].split(maxsplit=1)[0] if not text[at].isspace() else None
        return next((text[at : at + n] for n in self._lengths if text[at : at + n] in self.number), None)

    def _odd(self, odd: str, text: str, at: int, where: str) -> int:
        if self.unknown is not None:
            return self.number[self.unknown]
        near = did_you_mean(odd, self.names)
        what = f"{odd!r} at position {at} of {text[:60]!r} is no symbol"
        raise DataError(
            where,
            what,
            f"one of the {len(self.names)} target symbols",
            "the base's own mask token, if it has one (processing_class.mask_token), stands for what is asked for"
            if MASK.match(text, at)
            else f"{near}; or add {odd!r} to symbols; unknown= names the symbol that stands for such",
        )


def target_symbols(source: Any) -> list[str]:
    """Symbols for `DictionaryConfig(symbols=...)` and its kin, from what a user has.

    Args:
        source: a tokenizer (the texts of its tokens in order of the ids, special tokens left out); a path of a text
            file with one symbol per line; or texts, whose characters are taken, sorted.

    Returns:
        The symbols. Text is cut into them by the longest match: this is what a WordLevel tokenizer of molecules or
        codons does. Of SentencePiece, byte-level BPE and WordPiece tokenizers the tokens are taken as they read in a
        text, without the spaces before them (`▁good`, `Ġgood` and `##good` are all "good") and each once; pieces of a
        character's bytes and rows that are kept free are left out. A config holds symbols and no tokenizer, so that
        the longest match stands in for their own merges there too; and nothing is made small that they would.

    Raises:
        ConfigError: a source that holds none; a tokenizer whose tokens have no text of their own.

    Example:

        >>> target_symbols(["GATTACA", "TAC"])
        ['A', 'C', 'G', 'T']
    """
    where = "target_symbols(source)"
    if isinstance(source, str) and not Path(source).suffix and not Path(source).exists():
        raise ConfigError(where, f"{source[:60]!r} is no file", "a path, or a list of texts", f"[{source[:60]!r}]")
    if hasattr(source, "get_vocab"):
        found = _token_texts(source, where)
    elif isinstance(source, str | Path):
        try:
            found = [line for line in Path(source).read_text(encoding="utf-8").splitlines() if line]
        except (OSError, UnicodeDecodeError) as error:
            what = f"{str(source)!r} cannot be read ({error})"
            raise ConfigError(where, what, "a text file with one symbol per line") from error
    elif not isinstance(source, Iterable):
        raise ConfigError(where, f"{source!r} is a {type(source).__name__}"[:120], "a tokenizer, a path, or texts")
    else:
        texts = list(source)
        odd = next((text for text in texts if not isinstance(text, str)), None)
        if odd is not None:
            what = f"{str(odd)[:60]!r} is a {type(odd).__name__}"
            raise ConfigError(where, what, "texts", '[row["text"] for row in rows]')
        found = sorted({character for text in texts for character in text if not character.isspace()})
    if not found:
        raise ConfigError(where, "holds no symbol", "a tokenizer, a file with one symbol per line, or texts")
    return found


def _token_texts(tokenizer: Any, where: str) -> list[str]:
    """Texts of a tokenizer's plain tokens in order of the ids, each once."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    names = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = getattr(backend, "model", None)
    within = getattr(model, "continuing_subword_prefix", None) or ""  # decoders take it off behind other tokens only
    texts = [_token_text(name.removeprefix(within), tokenizer) for name in names if name not in special]
    marked = next((text for text in texts if text.startswith(MARKS) and text not in MARKS), None)
    if marked is not None and backend is not None and backend.decoder is None:
        kind = f"{type(tokenizer).__name__} ({type(model).__name__})"
        what = f"a {kind} without a decoder that says which text {marked!r} is"
        expected = "a tokenizer of whole words or characters (WordLevel), a file with one symbol per line, or texts"
        raise ConfigError(where, what, expected)
    return [text for text in dict.fromkeys(texts) if text and "\ufffd" not in text and not UNUSED.fullmatch(text)]


def _token_text(name: str, tokenizer: Any) -> str:
    """A token as it reads in a text, without the spaces round it; as it is where it is its own text."""
    text = tokenizer.convert_tokens_to_string([name])
    return name if text == name or not isinstance(text, str) else text.strip()


def check_symbols(symbols: str | Sequence[str], unknown: str | None, where: str) -> list[str]:
    """Symbols of an option as a list; a text is a list of its characters.

    Raises:
        ConfigError: none, too many, one twice, an empty one, an unknown that is none of them.
    """
    names = list(symbols)
    if not names:
        raise ConfigError(where, f"{symbols!r}", 'symbols: "ACGT", or a list', "hr.target_symbols(...) finds them")
    if len(names) > MOST:
        raise ConfigError(where, f"{len(names):,} symbols", f"at most {MOST:,}")
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConfigError(where, f"{twice!r} stands twice", "each symbol once")
    if not all(names):
        raise ConfigError(where, "an empty symbol", "symbols of at least one character")
    if unknown is not None and unknown not in names:
        place = where.rpartition(".")[0] + ".unknown"
        raise ConfigError(place, f"{unknown!r} is no symbol", "one of the symbols", did_you_mean(unknown, names))
    return names


@dataclass(frozen=True)
class Targets:
    """What a mapping that reads symbols at positions wants rows laid out for. Plain data.

    Args:
        symbols: what is read.
        every: whether the loss counts all positions of a row, not those alone whose symbol is asked for.
        rate: share of a text's symbols that are masked at random, where a row says neither what is asked for nor what
            is right; of bases that fill masks.
        end: number of the symbol that ends a text, of bases that go on writing.
    """

    symbols: Symbols
    every: bool = False
    rate: float = 0.15
    end: int | None = None


def same_token(name: str, tokenizer: Any) -> int | None:
    """The base's token of a symbol's name, None where it has none."""
    ids = tokenizer(name, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def stand_ins(names: Sequence[str], tokenizer: Any) -> list[int]:
    """A token of the base for every symbol: of its own name where there is one, else a common one, drawn.

    The draw is the same for all who ask, so that what stands for a symbol in the input is what is read for it in the
    output.

    Args:
        names: the symbols.
        tokenizer: the base's.
    """
    own = [same_token(name, tokenizer) for name in names]
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    free = [i for i in range(min(len(tokenizer), COMMON)) if i not in special and i not in own]
    missing = own.count(None)
    draw = random.Random(0)
    drawn = iter(draw.sample(free, missing) if missing <= len(free) else draw.choices(free or [0], k=missing))
    return [next(drawn) if token is None else token for token in own]


def check_table(rows: int, columns: int, rank: int | None, where: str, other: str) -> None:
    """Raise where a table, of target symbols x the base's vocabulary, would not fit into memory.

    Args:
        rows, columns: of the table.
        rank: of a table that is a product of two; None is a full one.
        where: how the error names the option.
        other: a fix that needs less.

    Raises:
        ConfigError: says its size.
    """
    numbers = rows * columns if rank is None else rank * (rows + columns)
    if numbers > NUMBERS:
        table = "a table of" if rank is None else f"rank {rank:,} of a table of"
        what = f"{table} {rows:,} x {columns:,}, {4e-9 * numbers:.1f} GB, in training four times that"
        raise ConfigError(where, what, f"at most {NUMBERS:,} numbers", other)
