"""Text rows to laid out columns: tokenise each piece of the template, lay out, cut to length, pad."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import xxhash

from ..config import ReprogramConfig
from ..errors import ConfigError, DataError, UsageError, did_you_mean
from ..symbols import Symbols, Targets
from ..template import Answer, Column, Piece, Slots, Words, columns, parse, slot_count
from .rows import LABEL_COLUMNS, SOUND_COLUMNS, as_rows, label_of, label_tensor, program_of, target_of, text_of
from .targets import aim_of


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How rows of one program are laid out, what their labels are, and which continuations are scored after them: of
    a label word, or of the row's own text, which `texts` encodes."""

    pieces: tuple[Piece, ...]
    labels: tuple[str, ...] | None = None
    problem_type: str = "single_label_classification"
    words: tuple[tuple[int, ...], ...] | None = None
    symbols: Symbols | None = None
    targets: Targets | None = None
    texts: Any = None


@dataclass
class LaidOut:
    """One row before padding: token ids, or ~ of the numbers of target symbols; slot numbers (-1 elsewhere), the
    answer's position, program, label; where words of several tokens are scored, their token ids: it then becomes
    one row of the batch for each of them; and where symbols are read, the positions of these."""

    adapter: str | None
    ids: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    answer: int | None = None
    label: int | list[float] | list[int] | None = None
    words: tuple[tuple[int, ...], ...] | None = None
    reads: list[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def key(self) -> str:
        """A digest of ids, slots and answer: the whole way from text to ids is in it, the label is not."""
        laid = {k: v for k, v in vars(self).items() if k not in ("label", "adapter")}
        return xxhash.xxh3_64_hexdigest(json.dumps(laid, sort_keys=True).encode())


class TextCollator:
    """Rows to one padded batch. Plain data only, so that it travels to workers; a snapshot of the model's programs.

    Args:
        tokenizer: the base's.
        layouts: by program name.
        active: the program of rows that name none in an `adapter` column.
        facts: `backbone.facts`.
        names: names that integer labels stand for, in order; None refuses integers.
        disabled: lay out no slots, for a disabled program.

    Returns of a call:
        dict of `input_ids`, `attention_mask`, `slot_index` (batch, time), `symbol_index` likewise where a program
        has its rows written in target symbols, `answer_index` (batch,) where the template
        has an answer, `labels` (batch,) or (batch, outputs) where the rows have them, `adapter_names` where rows name
        a program. Where symbols are read, `answer_index` and `labels` are (batch, positions).
        Where words of several tokens are scored, each row stands there once for every word, with
        `answer_index` and `answer_ids` (batch, tokens); `labels` stay one per row.
    """

    one_length = False

    def __init__(
        self,
        tokenizer: Any,
        layouts: Mapping[str, Layout],
        active: str,
        facts: Any,
        names: Sequence[str] | None = None,
        disabled: bool = False,
    ) -> None:
        self.tokenizer, self.layouts, self.active = tokenizer, dict(layouts), active
        self.facts, self.names, self.disabled = facts, names, disabled
        self.reserved = 0  # positions that a row which is cut leaves free for what is written after it
        self.cuts = False  # whether a row was cut, and that was said
        self.harmless = harmless_id(tokenizer)
        self.prefix, self.suffix = special_ids(tokenizer)
        if facts.answer == "last":
            self.suffix = []  # the answer comes last: an end token after the text would stand in its way
        self.own_space = _adds_space(tokenizer)
        own = tokenizer.model_max_length
        limits = [n for n in (facts.max_length, own if own and own < 10**9 else None) if n]
        self.limit = min(limits) if limits else None
        self.aims = {
            name: aim_of(layout.targets, layout.symbols, tokenizer, facts.answer)
            for name, layout in self.layouts.items()
            if layout.targets is not None and not disabled
        }
        self.words = {
            p.text: self._tokens(p.text)
            for layout in self.layouts.values()
            for p in layout.pieces
            if isinstance(p, Words)
        }
        for name, layout in self.layouts.items():
            self._check_room(name, layout)

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        return self.stack(self.lay_out(rows))

    def lay_out(self, rows: Sequence[Any], labelled: bool = True) -> list[LaidOut]:
        """Rows as ids and slots, each cut to the base's length, not padded yet; labels too, unless told otherwise."""
        made = []
        for i, row in enumerate(as_rows(rows, "text")):
            name = program_of(row, self.layouts, self.active, f"rows[{i}]")
            label = label_of(row) if labelled else None
            if name in self.aims:
                out = self._aimed(row, name, label, labelled, f"rows[{i}]")
            elif label is not None and self.layouts[name].texts is not None and not self.disabled:
                out = self._told(row, self.layouts[name], label, f"rows[{i}]")
            else:
                out = self._one(row, self.layouts[name], f"rows[{i}]")
                if label is not None and self.layouts[name].problem_type != "transcription":
                    out.label = self._label(label, self.layouts[name], f"rows[{i}]['label']")
            out.adapter = row.get("adapter")
            made.append(out)
        return made

    def for_writing(self, new: int = 0) -> None:
        """Pad on the left from now on, score no words, cut long rows to leave room for `new` tokens (N32)."""
        if self.facts.answer == "last":
            self.facts, self.reserved = replace(self.facts, padding_side="left"), new
        self.layouts = {name: replace(layout, words=None) for name, layout in self.layouts.items()}

    def stack(self, made: Sequence[LaidOut]) -> dict[str, Any]:
        """Laid out rows as one padded batch."""
        rows = [row for m in made for row in self._expand(m)]
        batch = self._pad([row for row, _ in rows])
        words = [word for _, word in rows]
        if any(words):
            batch |= self._answers(batch, words)
        if any(m.adapter for m in made):
            batch["adapter_names"] = [row.adapter or self.active for row, _ in rows]
        labelled = [m.label is not None for m in made]
        if any(labelled):
            if not all(labelled):
                raise DataError(
                    f"rows[{labelled.index(False)}]['label']",
                    "missing, and other rows of the batch have one",
                    "labels on all rows or on none",
                )
            batch["labels"] = label_tensor([m.label for m in made])
            if any(m.reads is not None for m in made):
                batch |= self._every_position(batch, made)
        return batch

    def _expand(self, row: LaidOut) -> list[tuple[LaidOut, tuple[int, ...] | None]]:
        """The rows that a row becomes, each with the word that is scored there: the model reads all of a word but its
        last token, the decoder of a seq2seq model by itself."""
        if row.words is None:
            return [(row, None)]
        if self.facts.answer == "decoder":
            return [(row, word) for word in row.words]
        return [
            (replace(row, ids=[*row.ids, *word[:-1]], slots=[*row.slots, *[-1] * (len(word) - 1)]), word)
            for word in row.words
        ]

    @staticmethod
    def _answers(batch: Mapping[str, Any], words: Sequence[tuple[int, ...] | None]) -> dict[str, Any]:
        """`answer_index` and `answer_ids`, (batch, tokens), -1 after a word's end; a row without a word keeps its one
        position."""
        longest = max(len(word or ()) for word in words)
        ids = torch.tensor([[*(w or ()), *[-1] * (longest - len(w or ()))] for w in words])  # (batch, tokens)
        index = batch["answer_index"].unsqueeze(1) + torch.arange(longest)
        keep = ids >= 0
        keep[:, 0] = True
        return {"answer_index": index.where(keep, -1), "answer_ids": ids}

    def _label(self, label: Any, layout: Layout, where: str) -> int | list[float]:
        if layout.labels is None:
            raise DataError(
                where, f"{label!r}, and the program has no labels", fix="give ReprogramConfig(labels=[...])"
            )
        return target_of(label, layout.labels, layout.problem_type, self.names, where)

    def _aimed(self, row: Mapping[str, Any], name: str, label: Any, labelled: bool, where: str) -> LaidOut:
        """A row whose positions are read as symbols."""
        aim, there = self.aims[name], f"{where}['label']"
        wanted = None if label is None else aim.wanted(label, there)
        after = len(wanted) - 1 if wanted and aim.mask is None else 0
        out = self._one(row, self.layouts[name], where, after)
        out.reads, out.label = aim.point(out.ids, out.answer, wanted, labelled, where if label is None else there)
        out.slots += [-1] * (len(out.ids) - len(out.slots))
        return out

    def _told(self, row: Mapping[str, Any], layout: Layout, label: Any, where: str) -> LaidOut:
        """A row whose label is a text that is to follow: one continuation, of which all but the end stands there."""
        there = f"{where}['label']"
        if isinstance(label, int) and not isinstance(label, bool) and self.names and 0 <= label < len(self.names):
            label = self.names[label]  # of a dataset's classes
        if not isinstance(label, str):
            what, fix = f"{type(label).__name__} {label!r} is no text"[:120], "texts in the place of ids, or features="
            raise DataError(there, what, "the text that is to be written", fix)
        if not label.strip():
            raise DataError(there, f"{label!r} is empty", "the text that is to be written", "drop such rows")
        ids = layout.texts.encode(label, self.tokenizer, there)
        room = None if self.facts.writes is None else self.facts.writes - self.facts.answer_step
        if room is not None and len(ids) > room:
            what = f"{len(ids)} tokens, its end among them, and the base has room for {room}"
            raise DataError(there, what, "a shorter text")
        out = self._one(row, layout, where, len(ids) - 1 if self.facts.answer == "last" else 0)
        return replace(out, label=ids, words=(tuple(ids),))

    def _every_position(self, batch: Mapping[str, Any], made: Sequence[LaidOut]) -> dict[str, Any]:
        """`answer_index` and `labels` with padding too, where all positions count."""
        name = made[0].adapter or self.active
        everywhere = all(m.label is not None and m.reads == list(range(len(m))) for m in made)
        if name not in self.aims or not self.aims[name].targets.every or not everywhere:
            return {}
        labels, mask = torch.full_like(batch["input_ids"], self.aims[name].pad), batch["attention_mask"].bool()
        labels[mask] = torch.tensor([i for m in made for i in m.label])
        return {"answer_index": torch.arange(labels.shape[1]).expand_as(labels), "labels": labels}

    def _one(self, row: Mapping[str, Any], layout: Layout, where: str, after: int = 0) -> LaidOut:
        parts = {i: self._column(row, p, layout, where) for i, p in enumerate(layout.pieces) if isinstance(p, Column)}
        self._cut(parts, layout, where, after)
        out = LaidOut(None, words=None if self.disabled else layout.words)
        self._add(out, self.prefix)
        for i, piece in enumerate(layout.pieces):
            if isinstance(piece, Slots):
                if not self.disabled:
                    self._add(out, [self.harmless] * piece.count, range(piece.start, piece.start + piece.count))
            elif isinstance(piece, Answer):
                self._answer(out)
            else:
                self._add(out, parts[i] if isinstance(piece, Column) else self.words[piece.text])
        self._add(out, self.suffix)
        if self.facts.vocabulary is not None and max(out.ids, default=0) >= self.facts.vocabulary:
            odd = self.tokenizer.convert_ids_to_tokens(max(out.ids))
            raise DataError(
                where,
                f"token {odd!r} has id {max(out.ids)}, outside the base's vocabulary of {self.facts.vocabulary}",
                "the base's own tokenizer",
            )
        if not out.ids:
            raise DataError(where, f"{dict(row)!r} gives no token at all", "a text with at least one token")
        return out

    @staticmethod
    def _add(out: LaidOut, ids: Sequence[int], slots: Sequence[int] | None = None) -> None:
        out.ids += ids
        out.slots += slots if slots is not None else [-1] * len(ids)

    def _answer(self, out: LaidOut) -> None:
        """Causal: nothing, read the position before; masked: one mask token; seq2seq: a step of the decoder."""
        if self.facts.answer == "mask":
            self._add(out, [self.tokenizer.mask_token_id])
        out.answer = self.facts.answer_step if self.facts.answer == "decoder" else len(out.ids) - 1

    def _column(self, row: Mapping[str, Any], piece: Column, layout: Layout, where: str) -> list[int]:
        if piece.name not in row:
            if not any(c in row for c in columns(layout.pieces)) and set(row) <= {*LABEL_COLUMNS, "adapter"}:
                raise UsageError(
                    f"{where}[{piece.name!r}]",
                    f"missing: the row has only {sorted(row)}",
                    "the columns of the template",
                    "Trainer dropped them: set TrainingArguments(remove_unused_columns=False)",
                )
            heard = [c for c in SOUND_COLUMNS if c in row]
            raise DataError(
                f"{where}[{piece.name!r}]",
                f"no such column, but {heard[0]!r}, and the program reads text" if heard else "no such column",
                f"the columns {columns(layout.pieces)}",
                "sounds are for a program whose base hears" if heard else did_you_mean(piece.name, row),
            )
        value = text_of(row[piece.name], f"{where}[{piece.name!r}]")
        if layout.symbols is not None and not self.disabled:
            return self._symbols(value, layout.symbols, f"{where}[{piece.name!r}]")
        return self._tokens(piece.lead + value)

    def _symbols(self, text: str, symbols: Symbols, where: str) -> list[int]:
        """~ of the numbers of a text's symbols: below 0, so that no token is taken for one. The base's mask token
        stays what it is."""
        mask = getattr(self.tokenizer, "mask_token", None)
        return [~code for code in symbols.read(text, {mask: self.tokenizer.mask_token_id} if mask else None, where)]

    def _tokens(self, text: str) -> list[int]:
        """Ids of one piece, without specials. Tokenizers that set a space before every text get ours taken away."""
        if self.own_space and text.startswith(" "):
            text = text[1:]
        # Not verbose: a text longer than the model is ours to cut, not the tokenizer's to warn about.
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _cut(self, parts: dict[int, list[int]], layout: Layout, where: str, after: int = 0) -> None:
        """Cut columns, longest first, from the right; slots, words, the answer and `after` it are never cut (N13)."""
        if self.limit is None:
            return
        room = self.limit - self._fixed(layout) - after
        if room < len(parts):
            what = f"a label of {after + 1} tokens leaves no room for the row in the base's {self.limit} positions"
            raise DataError(where, what, "a shorter label")
        whole = sum(map(len, parts.values()))
        if whole > room and layout.targets is not None and not self.disabled:
            raise DataError(where, f"{whole} symbols, and the base has room for {room}", "shorter texts")
        if whole > room:
            room = max(room - self.reserved, len(parts))
        if whole > room and not self.cuts:
            self.cuts = True  # of many long rows one warning is enough
            logger.warning("%s has %d tokens, and the base has room for %d: long rows are cut.", where, whole, room)
        while (over := sum(map(len, parts.values())) - room) > 0:
            first, second = sorted((*map(len, parts.values()), 0), reverse=True)[:2]
            longest = max(parts, key=lambda i: len(parts[i]))
            parts[longest] = parts[longest][: max(first - over, min(second, first - 1))]

    def _fixed(self, layout: Layout) -> int:
        """Positions that are never cut."""
        words = sum(len(self.words[p.text]) for p in layout.pieces if isinstance(p, Words))
        answer = any(isinstance(p, Answer) for p in layout.pieces) and self.facts.answer == "mask"
        slots = 0 if self.disabled else slot_count(layout.pieces)
        after = max(map(len, layout.words)) - 1 if layout.words and self.facts.answer == "last" else 0
        return len(self.prefix) + len(self.suffix) + words + slots + answer + after

    def _check_room(self, name: str, layout: Layout) -> None:
        fixed = self._fixed(layout)
        if self.limit is not None and fixed + len(columns(layout.pieces)) > self.limit:
            raise ConfigError(
                "template",
                f"{fixed} slots and words of {name!r} leave no room for text in the base's {self.limit} positions",
                f"at most {self.limit - len(columns(layout.pieces))}",
                "fewer slots, or shorter words in the template",
            )

    def _pad(self, made: Sequence[LaidOut]) -> dict[str, Any]:
        longest = max(len(m.ids) for m in made)
        left = self.facts.padding_side == "left"

        def padded(values: list[int], filler: int) -> list[int]:
            rest = [filler] * (longest - len(values))
            return rest + values if left else values + rest

        codes = torch.tensor([padded(m.ids, self.harmless) for m in made])  # (batch, time)
        batch: dict[str, Any] = {
            "input_ids": codes.where(codes >= 0, self.harmless),
            "attention_mask": torch.tensor([padded([1] * len(m.ids), 0) for m in made]),
        }
        if not self.disabled:  # without it a program with slots refuses the batch
            batch["slot_index"] = torch.tensor([padded(m.slots, -1) for m in made])
        if any(layout.symbols for layout in self.layouts.values()) and not self.disabled:
            batch["symbol_index"] = (~codes).clamp(min=-1)
        shifts = [longest - len(m.ids) if left and self.facts.answer != "decoder" else 0 for m in made]
        if any(m.reads is not None for m in made):
            reads = [[i + shift for i in m.reads or ()] for m, shift in zip(made, shifts, strict=True)]
            batch["answer_index"] = label_tensor(reads).clamp(min=-1)  # (batch, positions)
        elif all(m.answer is not None for m in made):
            batch["answer_index"] = torch.tensor([m.answer + shift for m, shift in zip(made, shifts, strict=True)])
        return batch


def layout_of(config: ReprogramConfig) -> Layout:
    """The layout of a program from its config, resolved."""
    words = config.mapping.continuations()
    return Layout(
        parse(config.layout() or "{text}"),
        tuple(config.labels) if config.labels is not None else None,
        config.problem_type,
        tuple(map(tuple, words)) if words is not None else None,
        config.target_symbols(),
        config.mapping.targets(),
        config.mapping if config.problem_type == "transcription" and config.mapping.targets() is None else None,
    )


def harmless_id(tokenizer: Any) -> int:
    """The smallest id that is no special token: it stands in slots and padding, whose content nobody may read."""
    special = {
        *tokenizer.all_special_ids,
        *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special),
    }
    return next(i for i in range(len(tokenizer)) if i not in special)


def special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer sets before and after a text."""
    # A tokenizer may know no letter 'a' (molecules, nucleotides); one of its own tokens it does know.
    for text in ("a", tokenizer.convert_ids_to_tokens(harmless_id(tokenizer)), "C"):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer(text, add_special_tokens=True)["input_ids"]
        at = next((i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain), None)
        if plain and at is not None:
            return whole[:at], whole[at + len(plain) :]
    raise DataError(
        "processing_class", f"{type(tokenizer).__name__} tokenises none of its own tokens", "a text tokenizer"
    )


def _adds_space(tokenizer: Any) -> bool:
    """Whether the tokenizer itself sets a space before a text (SentencePiece), so that ours would stand doubled."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(ids) and tokenizer.convert_ids_to_tokens(ids[0]).startswith("▁")
