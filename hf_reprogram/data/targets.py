"""Which positions of a laid out row are read as symbols, and which symbols are right there."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import ConfigError, DataError
from ..losses import IGNORED
from ..symbols import Symbols, Targets, same_token


@dataclass(frozen=True)
class Aim:
    """How rows of one program are read. Plain data: it travels to workers with the collator.

    Ids are those of laid out rows: tokens of the base, or ~ of the numbers of the program's symbols.

    Args:
        targets: what the mapping wants.
        codes: by symbol that is read, the id by which it stands in a row; None where it cannot stand there.
        mask: the base's mask token; None of a base that goes on writing.
        token: the mask token as a text.
        special: the base's special tokens that are symbols too, where all positions count: id -> symbol.
        pad: the symbol that padding counts as, or -100.
    """

    targets: Targets
    codes: tuple[int | None, ...]
    mask: int | None
    token: str | None
    special: Mapping[int, int]
    pad: int = IGNORED

    def wanted(self, label: Any, where: str) -> list[int]:
        """Symbols of a row's label."""
        if not isinstance(label, str):
            raise DataError(where, f"{label!r} is a {type(label).__name__}"[:120], "a text of symbols")
        found = self.targets.symbols.read(label, where=where)
        if not found and (self.mask is not None or self.targets.end is None):
            raise DataError(where, f"{label!r} is empty", "a text of symbols", "drop such rows")
        if self.targets.end is not None and self.targets.end in found:
            what = f"{label!r} has {self.targets.symbols.names[self.targets.end]!r} in it, which ends a text"
            raise DataError(where, what[:200], "other symbols only")
        return found if self.mask is not None or self.targets.end is None else [*found, self.targets.end]

    def code(self, symbol: int, where: str) -> int:
        """The id by which a symbol stands in a row.

        Raises:
            DataError: it cannot: it is neither one of the program's symbols nor a token of the base.
        """
        found = self.codes[symbol]
        if found is None:
            name = self.targets.symbols.names[symbol]
            what = f"{name!r} is read, and cannot stand in a row for what is read after it"
            raise DataError(where, what, "a symbol of the program's, or a token of the base", "order='once'")
        return found

    def asked(self, ids: Sequence[int]) -> list[int]:
        """Positions that are asked for: the masks, or the last of all."""
        return [len(ids) - 1] if self.mask is None else [i for i, code in enumerate(ids) if code == self.mask]

    def point(
        self, ids: list[int], answer: int | None, wanted: list[int] | None, teach: bool, where: str
    ) -> tuple[list[int], list[int] | None]:
        """Positions that are read, and the right symbols there, -100 where none counts; None where nothing says them.

        Args:
            ids: of the row; masks are put into it, or what goes on after it.
            answer: position of the template's answer slot.
            wanted: symbols of the row's label.
            teach: whether a row without a label may teach itself.
            where: how errors name the row.
        """
        if self.mask is None:
            return self._next(ids, wanted, teach, where)
        masks = self.asked(ids)
        if wanted is not None:
            right = self._right(ids, answer, masks, wanted, where)
        elif masks or not teach:
            right = None
        else:
            right = self._drawn(ids)
            masks = sorted(right)
        if not masks:
            expected = f"{self.token!r} for each symbol that is asked for"
            fix = "leave the label out, and masks are drawn" if teach and wanted is not None else None
            what = f"no {self.token!r}" + (
                ", and no symbol of a program that could be masked" if teach and wanted is None else ""
            )
            raise DataError(where, what, expected, fix)
        if right is None or not self.targets.every:
            return masks, right and [right[i] for i in masks]
        known = self._own(ids) | right
        return list(range(len(ids))), [known.get(i, self.special.get(code, IGNORED)) for i, code in enumerate(ids)]

    def _own(self, ids: Sequence[int]) -> dict[int, int]:
        """Position -> symbol, where one of those that are read stands already."""
        numbers = {code: i for i, code in enumerate(self.codes) if code is not None and code < 0}
        return {at: numbers[code] for at, code in enumerate(ids) if code in numbers}

    def _right(
        self, ids: list[int], answer: int | None, masks: list[int], wanted: list[int], where: str
    ) -> dict[int, int]:
        """Mask -> its symbol, from a label that holds what is masked, or the whole text."""
        if len(wanted) == len(masks):
            return dict(zip(masks, wanted, strict=True))
        whole = [i for i, code in enumerate(ids) if code < 0 or code == self.mask or i == answer]
        if len(wanted) != len(whole):
            what = f"a label of {len(wanted)} symbols, and a row of {len(whole)}, {len(masks)} of them masked"
            raise DataError(where, what, "what is masked, or the whole text")
        right = dict(zip(whole, wanted, strict=True))
        odd = next((i for i in whole if i not in masks and self.codes[right[i]] != ids[i]), None)
        if odd is not None:
            name = self.targets.symbols.names[right[odd]]
            raise DataError(where, f"{name!r} at position {whole.index(odd)}, where the row has another", "its text")
        return {i: right[i] for i in masks}

    def _drawn(self, ids: list[int]) -> dict[int, int]:
        """Masks put over some of the row's symbols, at least one: mask -> symbol."""
        own = self._own(ids)
        if not own:
            return {}
        chosen = torch.rand(len(own)) < self.targets.rate
        if not bool(chosen.any()):
            chosen[torch.randint(len(own), (1,))] = True
        right = {i: symbol for (i, symbol), taken in zip(own.items(), chosen.tolist(), strict=True) if taken}
        for i in right:
            ids[i] = self.mask
        return right

    def _next(
        self, ids: list[int], wanted: list[int] | None, teach: bool, where: str
    ) -> tuple[list[int], list[int] | None]:
        """Of a base that goes on writing: a symbol is read at the position before it."""
        own = {at - 1: symbol for at, symbol in self._own(ids).items() if at > 0}
        last, end = len(ids) - 1, self.targets.end
        if wanted is None:
            if not teach or not own:
                return [last], None
            after = own | ({} if end is None else {last: end})
            return list(after), list(after.values())
        ids += [self.code(symbol, where) for symbol in wanted[:-1]]
        after = dict(enumerate(wanted, last))
        after = own | after if self.targets.every else after
        return list(after), list(after.values())


def asking(collator: Any) -> Any:
    """A collator by which rows are judged: of masked bases only what is asked for counts, also where training counts
    all positions. One of another kind is given back as it is."""
    aims: Mapping[str, Aim] = getattr(collator, "aims", {})  # a user's own collator has none
    if not any(aim.targets.every for aim in aims.values()):
        return collator
    made = copy.copy(collator)
    made.aims = {
        name: aim if aim.mask is None else replace(aim, targets=replace(aim.targets, every=False))
        for name, aim in aims.items()
    }
    return made


def aim_of(targets: Targets, symbols: Symbols | None, tokenizer: Any, answer: str) -> Aim:
    """The Aim of a program.

    Args:
        targets: what its mapping reads.
        symbols: in which its rows are written; None for the base's own tokens.
        tokenizer: the base's.
        answer: where the base answers, `mask` or `last`.
    """
    mask = tokenizer.mask_token_id if answer == "mask" else None
    if answer == "mask" and mask is None:
        raise ConfigError("processing_class", "has no mask token, and the base fills masks", "one that has mask_token")
    names = targets.symbols.names
    if symbols is None:
        codes = [same_token(name, tokenizer) for name in names]
    else:
        codes = [~symbols.number[name] if name in symbols.number else None for name in names]
    special = {}
    if targets.every:
        own = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
        special = {i: targets.symbols.number[token] for token, i in own if token in targets.symbols.number}
    pad = special.get(tokenizer.pad_token_id, IGNORED)
    return Aim(targets, tuple(codes), mask, tokenizer.mask_token if mask is not None else None, special, pad)
