"""Checks made once when a base is wrapped: what we compute is what the base computes, or the base is refused.

Two tiny rows go through the base's own forward and through ours. A family whose row of data is wrong, or a model whose
forward does something unheard of, shows here and not as a wrong accuracy (T§0.3, P§B).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, Reading
from ..errors import BaseModelError, did_you_mean, first_line
from .ask import described, has_row
from .base import ROUGH, Backbone, tolerance
from .families import FAMILIES
from .text import TextBackbone


logger = logging.getLogger(__name__)


@torch.no_grad()
def probe(backbone: Backbone) -> dict[str, float]:
    """Compare our way through the base with its own, on two rows of different length; of a base that hears, our front
    end with its feature extractor, on half a second of noise that fades.

    Returns:
        Relative differences by check: `embeds` (by ids against by embeddings), `rows` (label rows against full
        logits, where there is a language model's head), `left` (padding on the other side, where the family allows
        it); or `features`.

    Raises:
        BaseModelError: a difference above `tolerance`, with the numbers seen; NaN.
    """
    if backbone.modality == "audio":
        return _heard(backbone)
    try:
        seen = _read(backbone)
    except Exception as error:
        if has_row(backbone.base):
            raise
        raise BaseModelError(
            "model",
            f"{_guessed(backbone)} it fails: {first_line(error)}",
            "a base of a family that the README's table of families lists",
            did_you_mean(backbone.base.config.model_type, FAMILIES),
        ) from error
    if not all(map(math.isfinite, seen.values())):  # no family's fault
        fix = "weights that are whole; dtype=torch.float32 where a half type overflows"
        raise BaseModelError("model", f"{type(backbone.base).__name__} gives NaN or infinity", "finite numbers", fix)
    allowed = tolerance(backbone.dtype)
    if not has_row(backbone.base) and getattr(backbone.base.config, "quantization_config", None):
        allowed = ROUGH  # what a product in 8 bits gives hangs on the rows beside
    wrong = {name: gap for name, gap in seen.items() if not gap <= allowed}
    shown = ", ".join(f"{name} {gap:.2g}" for name, gap in seen.items())
    name = type(backbone.base).__name__
    if not has_row(backbone.base) and set(wrong) == {"left"}:
        logger.warning("%s is exact with padding on the right only: relative differences %s.", name, shown)
        backbone.family = replace(backbone.family, sides=("right",))
    elif wrong:
        told = f"{name} does not compute what its family's row in FAMILIES says:"
        told = told if has_row(backbone.base) else f"{_guessed(backbone)} it computes something else:"
        fix = None if has_row(backbone.base) else "a base of a family that the README's table of families lists"
        raise BaseModelError("model", f"{told} relative differences {shown}", f"at most {allowed:g}", fix)
    return seen


def _guessed(backbone: TextBackbone) -> str:
    name, family = type(backbone.base).__name__, backbone.base.config.model_type
    return f"{name} is of the family {family!r}, which has no row in FAMILIES; by {described(backbone.family)}"


def _read(backbone: TextBackbone) -> dict[str, float]:
    """Two rows of different length, by their ids and by embeddings."""
    ids, mask = (made.to(backbone.device) for made in _two_rows(backbone))  # (2, time)
    shifted = torch.stack([ids[0], ids[1].roll(int((mask[1] == 0).sum()))]), torch.stack([mask[0], mask[1].flip(0)])
    seen = (_language if backbone.head else _headless)(backbone, ids, mask, shifted)
    if not has_row(backbone.base):  # vectors that are no words' must be taken too: some look for theirs (Gemma 4)
        batch = _batch(backbone, ids, mask)
        backbone.states(replace(batch, embeds=batch.embeds.flip(-1)))
    return seen if "left" in backbone.family.sides else {k: gap for k, gap in seen.items() if k != "left"}


def _two_rows(backbone: TextBackbone) -> tuple[Tensor, Tensor]:
    """Ids and mask (2, time) of two rows, the second shorter: any tokens, or what the base proposes."""
    if hasattr(backbone.base, "sample_ids"):
        rows = sorted(backbone.base.sample_ids(), key=len, reverse=True)
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        return padded, torch.tensor([[1] * len(row) + [0] * (len(rows[0]) - len(row)) for row in rows])
    low = backbone.vocab_size // 3
    ids = low + torch.arange(16).view(2, 8) % max(backbone.vocab_size - low, 1)
    return ids, torch.tensor([[1] * 8, [1] * 5 + [0] * 3])


def _heard(backbone: Any) -> dict[str, float]:
    """Our features against the extractor's."""
    front, rate = backbone.frontend, backbone.frontend.sampling_rate
    wave = 0.1 * torch.randn(rate // 2, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.1, rate // 2)
    theirs = backbone.extractor(wave.numpy(), sampling_rate=rate, return_tensors="pt")[front.input_name]
    gap = _gap(front.features(wave[None])[front.input_name], theirs)
    if not gap <= 1e-3:
        name = type(backbone.extractor).__name__
        what = f"our front end differs from {name} by {gap:.2g}"
        raise BaseModelError("processing_class", what, "at most 0.001", "report it: the extractor has changed")
    return {"features": gap}


def _language(backbone: TextBackbone, ids: Tensor, mask: Tensor, shifted: tuple[Tensor, Tensor]) -> dict[str, float]:
    """A language model: logits at the answer, all of them and some rows."""
    rows = tuple(range(0, backbone.head.size, max(backbone.head.size // 5, 1)))
    batch = _batch(backbone, ids, mask)
    at = torch.arange(2, device=ids.device), batch.answer_index
    prefix = torch.tensor([backbone.decoder_prefix], device=ids.device)
    decoder = {"decoder_input_ids": prefix} if backbone.kind == "seq2seq" else {}
    if has_row(backbone.base) and not backbone.family.looks_beside:
        decoder = {name: steps.expand(2, -1) for name, steps in decoder.items()}
        own = backbone.base(input_ids=ids, attention_mask=mask, **decoder).logits[at]  # (2, vocabulary)
    else:  # each row alone and without padding: there are bases that see what stands there
        alone = [row[None, : int(real.sum())] for row, real in zip(ids, mask, strict=True)]
        own = torch.cat([backbone.base(input_ids=row, **decoder).logits[:, -1] for row in alone])
    states = backbone.states(batch)
    _check_size(backbone, states[0])
    sliced = backbone.read(batch, Reading("rows", ids=rows), *states).values
    return {
        "embeds": _gap(backbone.base_output(batch).logits[at], own),
        "rows": _gap(sliced, own[:, list(rows)]),
        "left": _gap(backbone.run(_batch(backbone, *shifted), Reading("rows", ids=rows)).values, sliced),
    }


def _headless(backbone: TextBackbone, ids: Tensor, mask: Tensor, shifted: tuple[Tensor, Tensor]) -> dict[str, float]:
    """A classifier or a bare model: its classes, or the mean of its states. Each row alone and without padding through
    the base's own forward, since a causal classifier finds the end of a row by its pad id."""
    reading = Reading("classes") if backbone.kind == "classifier" else Reading("state", pool="mean")
    batch = _batch(backbone, ids, mask)
    states = backbone.states(batch)  # first: a model that is asked is then asked for both rows in one call
    _check_size(backbone, states[0])
    ours = backbone.read(batch, reading, *states).values
    own = []
    for row, real in zip(ids, mask, strict=True):
        found = backbone.base(input_ids=row[None, : int(real.sum())])
        _check_names(backbone, found)
        own.append(found.logits if backbone.kind == "classifier" else found.last_hidden_state.mean(1))
    return {
        "embeds": _gap(ours, torch.cat(own)),
        "left": _gap(backbone.run(_batch(backbone, *shifted), reading).values, ours),
    }


def _check_size(backbone: TextBackbone, states: Tensor) -> None:
    if states.shape[-1] != backbone.state_size():
        what = f"states of a {type(backbone.base).__name__} have {states.shape[-1]} numbers"
        raise BaseModelError("model", what, f"{backbone.state_size()}, as its config says")


def _check_names(backbone: TextBackbone, found: Any) -> None:
    if backbone.kind == "classifier" and found.logits.shape[-1] != backbone.classes:
        what = f"{found.logits.shape[-1]} outputs of a {type(backbone.base).__name__} with {backbone.classes} names"
        raise BaseModelError("model", what, "a name for each", "config.id2label = {0: NAME, 1: ...} of all outputs")


def _batch(backbone: TextBackbone, ids: Tensor, mask: Tensor) -> Batch:
    """Rows as the collator would lay them out, read at their last real token (or decoder step)."""
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    answer = torch.full_like(last, backbone.facts.answer_step) if backbone.kind == "seq2seq" else last
    return Batch(input_ids=ids, attention_mask=mask, embeds=backbone.embed(ids), answer_index=answer)


def _gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest logit (or 1)."""
    theirs = theirs.float()
    return ((ours.float() - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
