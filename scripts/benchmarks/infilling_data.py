"""Rows of the infilling benchmark: heavy chains of antibodies of one library, whose third loop is masked.

antibody_affinity: 4,000 different heavy chains of one library, all of 115 residues. All share a framework; eight sites
were varied on purpose (six residues each), the others differ in one row of several hundred at most. The loop stands
between the C and the W of ...YYC(AR......)WGQG...: eight residues, of which the library varies three. So five of them
are known to whoever has seen one row, and the other three follow from the five varied sites outside and from each
other as far as the selection for binding has coupled them. Rows of the test split are in no other split; their loops
mostly are (203 different ones in train).
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence

import fetch_models


DATA = fetch_models.SHARED / "data" / "antibody_affinity"
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
LOOP = re.compile(r"YYC([A-Z]{8})WG[A-Z]G")
VARIED = (2, 4, 7)  # of the loop's eight residues those that the library varies
CROP = ((31, 34), (48, 58), (94, 106))  # residues around the varied sites
Rows = list[str]


def read(split: str, most: int | None = None) -> Rows:
    """Sequences of a split that hold the loop between its C and its W."""
    with gzip.open(DATA / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line)["text"] for line in lines]
    return [text for text in dict.fromkeys(found) if LOOP.search(text)][:most]


def loop(text: str) -> str:
    """The loop of a sequence."""
    return LOOP.search(text)[1]


def masked(text: str, mask: str, hidden: Sequence[bool] = (True,) * 8, crop: bool = True) -> dict[str, str]:
    """A row: the sequence with its loop, or some residues of it, masked, and what stands there."""
    start = LOOP.search(text).start(1)
    letters = [mask if 0 <= i - start < 8 and hidden[i - start] else letter for i, letter in enumerate(text)]
    kept = [letter for span in CROP for letter in letters[slice(*span)]] if crop else letters
    own = [letter for letter, gone in zip(loop(text), hidden, strict=True) if gone]
    return {"text": "".join(kept), "label": "".join(own)}


class Drawn(list):
    """Rows whose masks are drawn anew at each look: the whole loop every other time, else any share of it, so that a
    loop that is half filled is nothing new to the model."""

    def __init__(self, texts: Rows, mask: str, seed: int) -> None:
        super().__init__(masked(text, mask) for text in texts)
        self.texts, self.mask, self.draw = texts, mask, random.Random(seed)

    def __getitem__(self, index: int) -> dict[str, str]:
        share = 1.0 if self.draw.random() < 0.5 else self.draw.random()
        hidden = [self.draw.random() < share for _ in range(8)]
        hidden[self.draw.randrange(8)] = True
        return masked(self.texts[index], self.mask, hidden)
