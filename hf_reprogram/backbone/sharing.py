"""What rows of a causal model have in common is computed once: slots that come first, and texts before slots.

A position of a causal model depends on nothing behind it. So the keys and values of vectors that all rows begin with
are those of one row; and those of a text before the slots are no matter of the slots, and the same in every epoch
(P§D). Both are proved on tiny rows of the base before their first use, else everything is computed as ever.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..batch import Batch
from .base import tolerance


logger = logging.getLogger(__name__)

WORTH = 8  # one position of so many must be saved: two short calls cost more than a long one
TEXTS = 2**30  # bytes of keys and values that are kept of texts

Shared = tuple[Tensor, DynamicCache, Tensor]  # vectors (1, positions, width), their keys and values, their states


@dataclass
class Known:
    """Keys and values of texts, (layers, 2, heads, positions, size) by their ids; of one state of the base."""

    state: tuple[Any, ...]
    texts: dict[tuple[int, ...], Tensor]
    bytes: int = 0


class Sharing:
    """Of one causal body.

    What rows begin with is kept from batch to batch of one call, and not between calls: its vectors are compared, but
    a base that was edited through `.data`, moved, or run under another autocast would answer as it was, and nobody
    would see it; and a model at rest would hold memory. The base's own `generate` shares nothing: a cache that is
    handed to it beside vectors is counted in a way of each family's own.

    Texts before slots are kept through training, over the evaluations in it (else each epoch would begin anew), and
    let go of by `forget` or when the model serves.

    Args:
        backbone: a TextBackbone.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        self._kept: Shared | None = None
        self._before: Tensor | None = None  # the first row (1, time, width) of the batch before, of the same call
        self._serving = False
        self._known: Known | None = None

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Keep what rows begin with from batch to batch, as long as nothing trains; let go of what training kept."""
        outer, self._serving = self._serving, True
        self.forget()
        try:
            yield
        finally:
            self._serving = outer
            if not outer:
                self._kept = self._before = None

    def forget(self) -> None:
        """Let go of the texts that were kept for the next epoch: up to `TEXTS` bytes."""
        self._known = None

    def states(self, batch: Batch, answers_only: bool) -> Tensor | None:
        """Last hidden states (batch, time, dim) by a shorter way; None where there is none.

        Args:
            batch: embedded.
            answers_only: whether nothing before the slots is read; it may then be zeros.
        """
        mask = batch.attention_mask
        if mask.shape != batch.embeds.shape[:2] or mask.shape[1] < 2:
            return None  # refused where it is run
        if self.backbone.base.is_activation_checkpointing:
            return None  # nothing may be kept
        same, known = (batch.embeds == batch.embeds[:1]).all(-1).all(0), self._before is not None  # (time,)
        if self._serving and not torch.is_grad_enabled():
            same = same & self._as_before(batch.embeds[:1])
        if batch.changed is None or not (answers_only and batch.embeds.requires_grad):
            before = torch.zeros_like(mask[:, 0])
        else:
            before = torch.where(batch.changed.any(1), batch.changed.int().argmax(1), 0)  # (batch,) text before slots
        right = (mask[:, 1:] <= mask[:, :-1]).all() & mask[:, 0].bool().all()
        facts = torch.stack([right.long(), same.long().cumprod(0).sum(), mask.sum(1).min(), before.sum(), mask.sum()])
        padded_right, common, shortest, texts, all_of_them = facts.tolist()  # one look: a GPU waits at every question
        if not padded_right:
            return None
        if texts * 3 > all_of_them and self.proved["texts"]:
            return self._after_texts(batch, before)
        common = min(common, shortest - 1)
        kept = self._kept if self._kept is not None and _begins(batch, self._kept[0], common) else None
        common = kept[0].shape[1] if kept is not None else common
        saved = common * (len(mask) - (kept is None and not known))  # where two batches begin alike, others will
        if saved * WORTH < mask.numel() or not self.proved["prefix"]:
            return None
        return self._behind(batch, kept or self._beginning(batch.embeds[:1, :common]))

    # Slots that come first

    def _as_before(self, row: Tensor) -> Tensor:
        """(time,) where a row (1, time, width) is as the first one of the batch before; of the first batch, all."""
        before, self._before = self._before, row.clone()
        if before is None:
            return torch.ones_like(row[0, :, 0], dtype=torch.bool)
        time = min(before.shape[1], row.shape[1])
        found = (row[0, :time] == before[0, :time]).all(-1)
        return nn.functional.pad(found, (0, row.shape[1] - time))

    def _beginning(self, vectors: Tensor) -> Shared:
        found = self.backbone.body(inputs_embeds=vectors, use_cache=True)
        made = (vectors.clone(), found.past_key_values, found.last_hidden_state)
        if self._serving and not torch.is_grad_enabled():
            self._kept = made
        return made

    def _behind(self, batch: Batch, shared: Shared) -> Tensor:
        """States of all positions, those of the beginning from one row."""
        vectors, cache, states = shared
        # A cache grows when it is used, and one with a graph cannot be copied. Copies of sliding layers remember how
        # much they have seen; one built anew from their keys would not.
        cache = cache if torch.is_grad_enabled() else _copied(cache)
        rows = len(batch.embeds)
        for layer in cache.layers:
            layer.keys, layer.values = (x.expand(rows, -1, -1, -1) for x in (layer.keys, layer.values))
        rest = self.backbone.body(
            inputs_embeds=batch.embeds[:, vectors.shape[1] :], past_key_values=cache, use_cache=True
        ).last_hidden_state
        return torch.cat([states.expand(rows, -1, -1), rest], 1)  # (batch, time, dim)

    # Slots that come last

    def _after_texts(self, batch: Batch, before: Tensor) -> Tensor:
        """States from the first slot on, zeros before; the texts' keys and values from earlier epochs, or made now."""
        lengths = before.tolist()
        known = self._texts(batch, lengths)  # of each row (layers, 2, heads, positions, size)
        longest, time = max(lengths), batch.embeds.shape[1]
        pads = [torch.nn.functional.pad(k, (0, 0, 0, longest - k.shape[3])) for k in known]
        stacked = torch.stack(pads, 2)  # (layers, 2, batch, heads, positions, size)
        cache = DynamicCache()
        for i, (keys, values) in enumerate(stacked):
            cache.update(keys, values, i)
        steps = torch.arange(int((batch.attention_mask.sum(1) - before).max()), device=before.device)
        at = before.unsqueeze(1) + steps  # (batch, steps)
        real = (at < time) & batch.attention_mask.gather(1, at.clamp(max=time - 1)).bool()
        row = torch.arange(len(at), device=at.device).unsqueeze(1)
        texts = torch.arange(longest, device=at.device) < before.unsqueeze(1)
        positions = {"position_ids": at} if "position_ids" in _parameters(self.backbone.body) else {}
        states = self.backbone.body(
            inputs_embeds=batch.embeds[row, at.clamp(max=time - 1)],
            attention_mask=torch.cat([texts, real], 1).to(batch.attention_mask.dtype),
            past_key_values=cache,
            use_cache=True,
            **positions,
        ).last_hidden_state  # (batch, steps, dim)
        whole = states.new_zeros(*batch.embeds.shape[:2], states.shape[-1])
        return whole.index_put((row.expand_as(at)[real], at[real]), states[real])

    def _texts(self, batch: Batch, lengths: list[int]) -> list[Tensor]:
        ids = [tuple(row[:n]) for row, n in zip(batch.input_ids.tolist(), lengths, strict=True)]
        state = tuple((p.data_ptr(), p._version) for p in self.backbone.base.parameters())
        if self._known is None or self._known.state != state:
            self._known = Known(state, {})
        found = {key: self._known.texts[key] for key in ids if key in self._known.texts}
        missing = [i for i, key in enumerate(ids) if key not in found]
        if missing:
            longest = max(lengths[i] for i in missing)
            with torch.no_grad():
                vectors = batch.embeds[missing, :longest].detach()
                cache = self.backbone.body(inputs_embeds=vectors, use_cache=True).past_key_values
            for n, i in enumerate(missing):
                pairs = [torch.stack([y.keys[n, :, : lengths[i]], y.values[n, :, : lengths[i]]]) for y in cache.layers]
                found[ids[i]] = torch.stack(pairs)
        for key, made in found.items():
            size = made.numel() * made.element_size()
            if key not in self._known.texts and self._known.bytes + size <= TEXTS:
                self._known.texts[key] = made
                self._known.bytes += size
        return [found[key] for key in ids]

    # Proof

    @cached_property
    def proved(self) -> dict[str, bool]:
        """Whether each short way gives what the long one gives, on two tiny rows; a reason is logged where not."""
        return {"prefix": self._proved("prefix"), "texts": self._proved("texts")}

    @torch.no_grad()
    def _proved(self, way: str) -> bool:
        backbone = self.backbone
        size = backbone.vocab_size
        ids = (torch.arange(16, device=backbone.device).view(2, 8) * 5 + size // 3) % size
        mask = torch.tensor([[1] * 8, [1] * 6 + [0] * 2], device=ids.device)
        ids[1, :3] = ids[0, :3]
        batch = Batch(input_ids=ids, attention_mask=mask, embeds=backbone.embed(ids))
        try:
            whole = backbone.body(inputs_embeds=batch.embeds, use_cache=False).last_hidden_state
            made = backbone.body(inputs_embeds=batch.embeds[:, :3], use_cache=True).past_key_values
            kinds = {type(layer) for layer in made.layers}
            # Of sliding layers the first keys are gone: they cannot be put together again.
            allowed = {DynamicLayer, DynamicSlidingWindowLayer} if way == "prefix" else {DynamicLayer}
            if type(made) is not DynamicCache or not kinds <= allowed:
                return _refused(backbone, way, f"it keeps {type(made).__name__} of {[k.__name__ for k in kinds]}")
            if way == "prefix":
                short = self._behind(batch, self._beginning(batch.embeds[:1, :3]))
            else:
                short = self._after_texts(batch, torch.tensor([4, 3], device=ids.device))
                mask = mask * (torch.arange(8, device=ids.device) >= 4)
        except Exception as error:  # whatever a stranger's body raises where it is asked for a cache
            return _refused(backbone, way, f"{type(error).__name__}: {error}")
        gap = ((whole - short).abs() * mask.unsqueeze(-1)).max() / whole.abs().max()
        return bool(gap <= tolerance(backbone.dtype)) or _refused(backbone, way, f"it differs by {gap:.2g}")


def sharing_of(backbone: Any) -> Sharing | None:
    """The sharing of a backbone; None where a row's states hang on what stands behind them, or on ids."""
    keeps = {"past_key_values", "inputs_embeds"} <= _parameters(backbone.body)
    return Sharing(backbone) if keeps and backbone.family.causal and not backbone.family.reads_ids else None


def _parameters(module: nn.Module) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


def _refused(backbone: Any, way: str, why: str) -> bool:
    logger.info("%s: every row is computed whole (%s): %s", type(backbone.base).__name__, way, why)
    return False


def _begins(batch: Batch, vectors: Tensor, common: int) -> bool:
    """Whether all rows begin with these vectors."""
    length = vectors.shape[1]
    return not torch.is_grad_enabled() and length <= common and torch.equal(batch.embeds[:1, :length], vectors)


def _copied(cache: DynamicCache) -> DynamicCache:
    """A cache of its own with the same tensors: they are never written into, only replaced by longer ones."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other
