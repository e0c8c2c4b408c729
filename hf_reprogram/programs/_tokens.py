"""Which of the base's tokens may stand for a target symbol, and which one is nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def plain_tokens(tokenizer: Any, size: int) -> list[int]:
    """Ids of the tokens that are text: none that the tokenizer calls special, none in brackets such as `[unused7]`.

    Args:
        tokenizer: the base's.
        size: rows of its embedding table.
    """
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    names = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), size)))
    return [i for i, name in enumerate(names) if i not in special and not _bracketed(name)]


def _bracketed(name: str) -> bool:
    return len(name) > 2 and (name[0], name[-1]) in (("[", "]"), ("<", ">"))


def spelled(symbols: Sequence[str], tokenizer: Any, spaced: bool, plain: Sequence[int]) -> list[list[int]]:
    """Ids of the tokens that spell each symbol: one where there is one, after a space or not; [] where one is none of
    `plain`.

    Args:
        symbols: the symbols.
        tokenizer: the base's.
        spaced: whether a space stands before them.
        plain: ids that may be used.
    """
    leads, allowed = ((" ", "") if spaced else ("", " ")), set(plain)
    ways = [tokenizer([lead + s for s in symbols], add_special_tokens=False)["input_ids"] for lead in leads]
    found = []
    for way in zip(*ways, strict=True):
        known = [ids for ids in way if ids and allowed.issuperset(ids)]
        found.append(min(known, key=len, default=[]))  # the first of the shortest
    return found


def nearest(pieces: Sequence[list[int]], other: Tensor, vectors: Tensor, backbone: Any) -> Tensor:
    """(symbols,) number of the candidate that is nearest, by angle, to the mean of each symbol's pieces.

    Args:
        pieces: as `spelled` gives them.
        other: (symbols,) what is taken of a symbol that is spelled by nothing.
        vectors: (candidates, width).
        backbone: of the base.
    """
    wanted = sorted({i for ids in pieces for i in ids})
    if not wanted:
        return other
    number = {token: i for i, token in enumerate(wanted)}
    table = backbone.vectors(wanted).cpu()  # (pieces, width)
    known = [i for i, ids in enumerate(pieces) if ids]
    means = torch.stack([table[[number[token] for token in pieces[i]]].mean(0) for i in known])  # (known, width)
    unit = nn.functional.normalize(vectors, dim=1)
    found = [(part @ unit.T).argmax(1) for part in nn.functional.normalize(means, dim=1).split(1024)]
    return other.index_copy(0, torch.tensor(known), torch.cat(found))
