"""The template language: where text, slots, fixed words and the answer stand. Pure text, no torch.

    {text}        a column of the row (any name)          {prompt:5}   five slots, each a vector of its own
    {answer}      what the mapping reads                  {{  }}       a brace
    anything else stands for itself

Whitespace follows one rule, so that a template reads as it looks and no tokenizer sees a lonely space: a space belongs
to the column or words that FOLLOW it; a space before a slot, before `{answer}` or at either end is dropped.

Example:

    >>> [str(piece) for piece in parse("{prompt:5} {text} {prompt:5} It was{answer}")]
    ['slots 0-4', "column ' ' + text", 'slots 5-9', "words ' It was'", 'answer']
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import TemplateError


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPEN = re.compile(_NAME.pattern + r"(:[0-9]+)?")  # what may stand in braces: after one, and before one
_SHUT = re.compile(_OPEN.pattern + r"$")
MAX_SLOTS = 4096  # more slots than any base has positions for: a typing error, not a wish


@dataclass(frozen=True)
class Slots:
    """`count` slots numbered from `start`."""

    start: int
    count: int

    def __str__(self) -> str:
        return f"slots {self.start}-{self.start + self.count - 1}"


@dataclass(frozen=True)
class Column:
    """A column of the row, with the whitespace that stands before it."""

    name: str
    lead: str = ""

    def __str__(self) -> str:
        return f"column {self.lead!r} + {self.name}" if self.lead else f"column {self.name}"


@dataclass(frozen=True)
class Words:
    """Fixed words."""

    text: str

    def __str__(self) -> str:
        return f"words {self.text!r}"


@dataclass(frozen=True)
class Answer:
    """The answer slot."""

    def __str__(self) -> str:
        return "answer"


Piece = Slots | Column | Words | Answer


def parse(template: str, where: str = "template") -> tuple[Piece, ...]:
    """The pieces of a template, in order.

    Args:
        template: the template, as in the module's example.
        where: how errors name the field.

    Raises:
        TemplateError: not a string, a brace that does not close, a field that is no field, more than one `{answer}`,
            no column at all.
    """
    if not isinstance(template, str):
        raise TemplateError(
            where, f"{template!r} is a {type(template).__name__}", "a string", '"{text} It was{answer}"'
        )
    pieces: list[Piece] = []
    literal = ""
    at, slots = 0, 0
    for match in _FIELD.finditer(template):
        literal += template[at : match.start()]
        at = match.end()
        token = match.group()
        if token in ("{{", "}}"):
            literal += token[0]
            continue
        if token in ("{", "}"):
            what = f"a lonely {token!r} at position {match.start()} of {template!r}"
            raise TemplateError(where, what, fix=f"{_closed(template, match)}write {token * 2} for a brace")
        piece = _field(match.group(1), slots, template, where)
        if isinstance(piece, Slots):
            slots += piece.count
        literal, lead = _split(literal, piece, first=not pieces)
        if literal:
            pieces.append(Words(literal))
        pieces.append(Column(piece.name, lead) if isinstance(piece, Column) else piece)
        literal = ""
    literal = (literal + template[at:]).rstrip(" ")
    if literal if pieces else literal.strip():
        pieces.append(Words(literal if pieces else literal.lstrip(" ")))
    _check(pieces, template, where)
    return tuple(pieces)


def _closed(template: str, brace: re.Match[str]) -> str:
    """What to write where a field has only one of its braces; nothing where no name stands beside it."""
    opens = brace.group() == "{"
    name = _OPEN.match(template, brace.end()) if opens else _SHUT.search(template[: brace.start()])
    return f"{{{name.group()}}} for a field, or " if name else ""


def _field(inside: str, slots: int, template: str, where: str) -> Piece:
    """One `{...}`: a column, slots, or the answer."""
    name, colon, count = inside.partition(":")
    if not _NAME.fullmatch(name):
        meant = re.sub(r"\s+", ":", inside.strip())
        fix = f"{{{meant}}}" if _OPEN.fullmatch(meant) else None
        expected = "{column}, {prompt:5} or {answer}"
        raise TemplateError(where, f"'{{{inside}}}' in {template!r} is no field", expected, fix)
    if not colon:
        return Answer() if name == "answer" else Column(name)
    if "=" in count:
        raise TemplateError(
            where,
            f"'{{{inside}}}' shares slots, which this version cannot",
            fix=f"write {{{name}:{count.split('=')[0]}}}: every slot is a vector of its own",
        )
    if name == "answer" or not count.isdecimal() or not 1 <= int(count) <= MAX_SLOTS:
        raise TemplateError(where, f"'{{{inside}}}' in {template!r}", f"{{prompt:N}} with N from 1 to {MAX_SLOTS}")
    return Slots(slots, int(count))


def _split(literal: str, following: Piece, first: bool) -> tuple[str, str]:
    """(words, lead of the following column): who gets the spaces at the end of `literal`."""
    words = literal.rstrip(" ")
    spaces = literal[len(words) :]
    if first:
        words = words.lstrip(" ")
    lead = spaces if isinstance(following, Column) and not (first and not words) else ""
    return words, lead


def _check(pieces: Sequence[Piece], template: str, where: str) -> None:
    answers = sum(isinstance(p, Answer) for p in pieces)
    if answers > 1:
        raise TemplateError(where, f"{answers} answer slots in {template!r}", "one {answer}")
    if not any(isinstance(p, Column) for p in pieces):
        raise TemplateError(
            where, f"no column in {template!r}: every row would look the same", "a column such as {text}"
        )


def columns(pieces: Sequence[Piece]) -> list[str]:
    """Names of the columns that the pieces take from a row, in order, each once."""
    return list(dict.fromkeys(p.name for p in pieces if isinstance(p, Column)))


def slot_count(pieces: Sequence[Piece]) -> int:
    """How many slots the pieces hold."""
    return sum(p.count for p in pieces if isinstance(p, Slots))


def slot_groups(pieces: Sequence[Piece]) -> list[Slots]:
    """The groups of slots, in order."""
    return [p for p in pieces if isinstance(p, Slots)]


def has_answer(pieces: Sequence[Piece]) -> bool:
    """Whether there is an answer slot."""
    return any(isinstance(p, Answer) for p in pieces)
