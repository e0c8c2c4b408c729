"""A frozen language model as the rest of the library sees it: embed, position, run, read."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import torch
from accelerate.utils import has_offloaded_params
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..batch import Batch, Reading, Readout
from ..errors import BaseModelError, UsageError, first_line
from .ask import family_of
from .base import Backbone
from .heads import Head, through
from .inside import by_ids
from .kinds import KINDS
from .pooling import pooled
from .prefix import prefix_of
from .sharing import sharing_of
from .writing import checked, given, likeliest, new_only, to_the_right


@dataclass(frozen=True)
class Facts:
    """What the collator must know of the backbone: plain data, so that it travels to workers.

    Args:
        answer: `last` (the position before it, causal), `mask` (a mask token), `decoder` (a decoder step) or `none`.
        answer_step: the decoder position that is read, for `decoder`.
        padding_side: the side on which rows are padded.
        max_length: positions the base has, slots included; None where it has no limit.
        vocabulary: rows of the embedding table; None where it is not known.
        writes: positions of a decoder, its prefix among them; None where it has no limit.
    """

    answer: str
    answer_step: int
    padding_side: str
    max_length: int | None
    vocabulary: int | None = None
    writes: int | None = None


class TextBackbone(Backbone):
    """A frozen language model.

    Args:
        base: a transformers language model; nothing of it is changed.

    Raises:
        BaseModelError: a family or a class that we cannot run.
    """

    modality = "text"
    stages = ("tokens", "embeds")
    one_pass = True

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__(base)
        self.family = family_of(base, self.kind)
        # Without a language model's head there is nothing that words could be read from.
        self.head = Head(base, self.family) if "rows" in self.gives else None
        self.sharing = sharing_of(self)

    # What it is

    @property
    def body(self) -> nn.Module:
        """The module that gives hidden states; for seq2seq the one that holds encoder and decoder."""
        return self.base if self.kind == "encoder" else self.base.get_submodule(self.family.body)

    @property
    def embedding(self) -> nn.Module:
        """The embedding module that the body really calls (for T5 and BART that is not `get_input_embeddings()`)."""
        return self.body.get_submodule(self.family.embed)

    def state_size(self, pool: str = "answer", layer: int | None = None, parts: int = 1) -> int:
        """Size of what a `state` Reading gives."""
        return getattr(self.base.config, self.family.state) * parts * (2 if pool == "statistics" else 1)

    @property
    def width(self) -> int:
        """Size of the vectors that slots must have; not always the hidden size (ALBERT)."""
        return self.embedding.weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self.embedding.weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where inputs must lie; an offloaded embedding says where it will be when it is called."""
        device = self.embedding.weight.device
        if device.type != "meta":
            return device
        if not has_offloaded_params(self.embedding):
            what = f"a {type(self.base).__name__} on the meta device, which has shapes and no numbers"
            raise BaseModelError("model", what, "a loaded base", "from_pretrained loads one")
        return torch.device(self.embedding._hf_hook.execution_device)

    @cached_property
    def decoder_prefix(self) -> tuple[int, ...]:
        """Token ids that the decoder reads before the answer; () for bases without a decoder."""
        return prefix_of(self.base, self.family) if hasattr(self.body, "decoder") else ()  # T5EncoderModel has none

    @property
    def facts(self) -> Facts:
        """What the collator must know."""
        limit = getattr(self.base.config, self.family.limits[0], None)
        if limit is not None and self.family.offset_positions:
            limit -= self.base.config.pad_token_id + 1  # the rows of its table up to padding's are never a token's
        answer = "last" if self.family.causal else KINDS[self.kind].answer
        writes = getattr(self.base.config, self.family.limits[1], None) if answer == "decoder" else None
        step = max(len(self.decoder_prefix) - 1, 0)
        return Facts(answer, step, self.family.sides[0], limit, self.vocab_size, writes)

    # Embedding

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (batch, time) -> vectors that the body takes as `inputs_embeds` (batch, time, width)."""
        vectors = self.embedding(ids)
        if self.family.embed_scale is None:
            return vectors
        path, _, name = self.family.embed_scale.rpartition(".")
        return vectors * getattr(self.body.get_submodule(path), name)

    @torch.no_grad()
    def rms(self) -> float:
        """Root mean square of what `embed` gives over the whole vocabulary, in float64: the unit of slot vectors."""
        ids = torch.arange(self.vocab_size, device=self.device)
        total = sum(self.embed(part[None])[0].double().square().sum().item() for part in ids.split(8192))
        return (total / (self.vocab_size * self.width)) ** 0.5

    @torch.no_grad()
    def table(self) -> Tensor:
        """What `embed` gives over the whole vocabulary: (vocabulary, width), float32."""
        return self.embed(torch.arange(self.vocab_size, device=self.device)[None])[0].float()

    @torch.no_grad()
    def vectors(self, ids: Sequence[int]) -> Tensor:
        """Embedding rows as slots would be given: (len(ids), width), float32."""
        return self.embed(torch.tensor([list(ids)], device=self.device))[0].float()

    # Running

    def _layout(self, mask: Tensor, module: nn.Module) -> dict[str, Tensor]:
        """Mask and positions for a body, only where they are needed.

        Without padding nothing is needed, and a causal body never looks at padding on the right: leaving the mask out
        there lets attention use its fast causal path. Otherwise positions are counted over real tokens only.
        """
        right_padded = (mask[:, 1:] <= mask[:, :-1]).all() & mask[:, 0].all()
        if bool(right_padded):  # asked once: on a GPU every question waits for the queue
            return {} if self.family.causal or bool(mask.all()) else {"attention_mask": mask}
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        if self.family.offset_positions:
            positions = positions * mask + mask + self.base.config.pad_token_id
        return {"attention_mask": mask} | (
            {"position_ids": positions} if "position_ids" in _parameters(module) else {}
        )

    def _inputs(self, batch: Batch, module: nn.Module) -> dict[str, Tensor]:
        if batch.embeds.shape[:2] != batch.attention_mask.shape:
            seen, due = tuple(batch.attention_mask.shape), tuple(batch.embeds.shape[:2])
            raise UsageError("attention_mask", f"of shape {seen}", f"{due}, slots included")
        embeds = batch.embeds * batch.attention_mask.unsqueeze(-1) if self.family.looks_beside else batch.embeds
        inputs = {"inputs_embeds": embeds, **self._layout(batch.attention_mask, module)}
        if batch.token_type_ids is not None and self.family.token_types:
            inputs["token_type_ids"] = batch.token_type_ids
        return inputs

    def serving(self) -> AbstractContextManager[None]:
        """A time in which nothing trains: what all rows begin with is kept from batch to batch."""
        return nullcontext() if self.sharing is None else self.sharing.serving()

    def forget(self) -> None:
        """Let go of the texts' keys and values, which a training run keeps."""
        if self.sharing is not None:
            self.sharing.forget()

    def _by_ids(self, module: nn.Module, ids: Tensor) -> AbstractContextManager:
        """Of a family that reads ids: calls of a module with embeddings go by ids."""
        return by_ids(module, self.embedding, ids) if self.family.reads_ids else nullcontext()

    def states(self, batch: Batch, readings: Sequence[Reading] = ()) -> tuple[Tensor, Tensor]:
        """Run the body once: (states, context).

        Args:
            batch: with `embeds` (batch, time, width) and `attention_mask` (batch, time).
            readings: all that will be read of the states, where that is known.

        Returns:
            The last hidden states that answers are read from, (batch, time, dim) or (batch, steps, dim) of a decoder;
            and those over the text, which are the same except for seq2seq: the encoder's (batch, time, dim).
        """
        body = self.body
        if self.kind != "seq2seq":
            last = bool(readings) and all(r.kind != "state" or r.pool in ("answer", "head") for r in readings)
            hidden = self.sharing.states(batch, last) if self.sharing is not None else None
            if hidden is not None:
                return hidden, hidden
            cache = {"use_cache": False} if "use_cache" in _parameters(body) else {}
            with self._by_ids(body, batch.input_ids):
                hidden = body(**self._inputs(batch, body), **cache).last_hidden_state  # (batch, time, dim)
            return hidden, hidden
        context = body.encoder(**self._inputs(batch, body.encoder)).last_hidden_state  # (batch, time, dim)
        hidden = body.decoder(
            input_ids=self._steps(batch),
            encoder_hidden_states=context,
            encoder_attention_mask=batch.attention_mask,
            use_cache=False,
        )
        return hidden.last_hidden_state, context  # (batch, steps, dim), (batch, time, dim)

    def _steps(self, batch: Batch) -> Tensor:
        """What the decoder reads before each answer, (batch, steps): its prefix, a label word but its last token."""
        prefix = torch.tensor(self.decoder_prefix, device=batch.attention_mask.device).expand(len(batch), -1)
        return prefix if batch.answer_ids is None else torch.cat([prefix, batch.answer_ids[:, :-1].clamp(min=0)], 1)

    def read(self, batch: Batch, reading: Reading, states: Tensor, context: Tensor) -> Readout:
        """What `reading` asks for, from the states of one run."""
        if reading.kind not in self.gives - {"base"}:
            raise BaseModelError(
                "reading",
                f"{reading.kind!r} is not something that {type(self.base).__name__} gives",
                f"one of {sorted(self.gives)}",
            )
        if reading.kind == "classes":
            return Readout(self._classes(batch, context), kind="classes")
        if reading.kind == "text":
            given(batch.answer_ids)
        if reading.kind in ("sequence", "text"):
            return replace(self._continuation(batch, states), kind=reading.kind)
        if reading.kind == "positions":
            return self._positions(batch, reading, states)
        if reading.kind == "state" and reading.pool in ("mean", "first", "statistics"):
            return Readout(pooled(batch, reading.pool, context, reading.parts), kind="state")
        at = self._answer(batch, states)
        at = at if at.ndim == 1 else at[:, 0]  # a row beside others whose words have several tokens
        answer = states[torch.arange(len(states), device=states.device), at]  # (batch, dim)
        if reading.kind == "state" and reading.pool == "answer":
            return Readout(answer, kind="state")
        answer = self.head.transform(answer)  # (batch, head dim)
        if reading.kind == "state":
            return Readout(answer, kind="state")
        ids = None if reading.ids is None else torch.tensor(reading.ids, device=answer.device)
        return Readout(self.head.logits(answer, ids), kind="rows")  # (batch, rows)

    def _classes(self, batch: Batch, context: Tensor) -> Tensor:
        """Logits of the base's own sequence classifier: (batch, classes)."""
        pool = "last" if self.family.causal else "first"
        if self.family.classify_pool and getattr(self.base.config, self.family.classify_pool) == "mean":
            pool, batch = "mean", replace(batch, slot_index=None)  # as the base does, which knows of no slots
        state = pooled(batch, pool, context)  # (batch, dim)
        if self.family.classify_sequence:
            state = state.unsqueeze(1)  # (batch, 1, dim), of which the classifier picks the first
        return through(self.base, self.family.classify, state).float()

    def _continuation(self, batch: Batch, states: Tensor) -> Readout:
        """Log-probabilities of the tokens of `answer_ids`, (batch, tokens); only what is read is scored."""
        at, ids = self._answer(batch, states), batch.answer_ids
        if ids is None or ids.shape != at.shape:
            raise UsageError(
                "answer_ids",
                "missing, or not of the shape of answer_index",
                fix="let model.collator() lay out the rows",
            )
        there = ids >= 0  # (batch, tokens)
        row = torch.arange(len(states), device=states.device).unsqueeze(1).expand_as(at)
        chosen = self.head.transform(states[row[there], at[there]])  # (positions read, head dim)
        values = torch.zeros(ids.shape, device=states.device)
        return Readout(values.masked_scatter(there, self.head.log_probs(chosen, ids[there])), there, "sequence")

    def _positions(self, batch: Batch, reading: Reading, states: Tensor) -> Readout:
        """States after the head's transform at all positions that are read, (batch, positions, head dim)."""
        at = self._answer(batch, states).view(len(states), -1)  # (batch, positions)
        row = torch.arange(len(states), device=states.device).unsqueeze(1)
        values = self.head.transform(states[row, at.clamp(min=0)])
        rows = self.head.rows(slice(None)) if reading.ids is None else ()
        return Readout(values, at >= 0, "positions", *rows)

    def _answer(self, batch: Batch, states: Tensor) -> Tensor:
        if batch.answer_index is None:
            raise UsageError(
                "answer_index",
                "missing: this mapping reads an answer slot",
                fix="let model.collator() lay out the rows",
            )
        index = batch.answer_index
        # Where rows have fewer answers than others, -1 stands for none: only a continuation has such.
        least = 0 if index.ndim == 1 else -1
        low, high = torch.stack(index.aminmax()).tolist()
        if low < least or high >= states.shape[1]:
            raise UsageError(
                "answer_index", f"{index.tolist()} for {states.shape[1]} positions", "positions of the laid out row"
            )
        return index

    def bring(self, batch: Batch, stage: str) -> Batch:
        """The batch at a stage: embedded, once something else than tokens is asked for."""
        if stage == "tokens" or batch.embeds is not None or batch.input_ids is None:
            return batch
        return replace(batch, embeds=self.embed(batch.input_ids))

    def accept(self, batch: Batch) -> Batch:
        """The batch of some columns, as the programs take it.

        Raises:
            UsageError: sound, or no tokens.
        """
        if batch.input_values is not None or batch.input_features is not None:
            raise UsageError("input_values", "sound for a text model", "input_ids")
        if batch.input_ids is None:
            raise UsageError("input_ids", "missing", "rows laid out by model.collator()")
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        return replace(batch, attention_mask=mask)

    def plain(self, batch: Batch) -> Batch:
        """The batch as the base itself would see it: no slots, no program."""
        batch = self.without_slots(batch)
        return replace(batch, embeds=self.embed(batch.input_ids))

    def run(self, batch: Batch, reading: Reading) -> Readout:
        """Body once, then only what is read."""
        return self.read(batch, reading, *self.states(batch, [reading]))

    def base_output(self, batch: Batch, **kwargs: Any) -> Any:
        """The base's own output (its ModelOutput) on embedded rows: logits at all positions, or of its classes."""
        if self.kind == "classifier":
            # Fed with embeddings, a causal classifier no longer sees where its rows end, and reads padding.
            return SequenceClassifierOutput(logits=self.run(batch, Reading("classes")).values)
        if self.kind == "seq2seq" and "labels" not in kwargs:
            prefix = torch.tensor(self.decoder_prefix, device=batch.embeds.device)
            kwargs["decoder_input_ids"] = prefix.expand(len(batch), -1)
        inputs = self._inputs(batch, self.base)
        if self.family.causal:
            inputs["use_cache"] = False
        with self._by_ids(self.base, batch.input_ids):
            return self.base(**inputs, **kwargs)

    def without_slots(self, batch: Batch) -> Batch:
        """The batch with its slots masked out, for a disabled program.

        Raises:
            UsageError: the base has relative positions that masking cannot skip (T5: N24), or sees what is masked
                (MobileBERT); rows in target symbols, which it cannot read.
        """
        if batch.symbol_index is not None and bool((batch.symbol_index >= 0).any()):
            what = f"the batch holds target symbols, which {type(self.base).__name__} cannot read"
            raise UsageError("disable_adapter", what, fix="lay the rows out with model.collator(disabled=True)")
        if batch.slot_index is None or not bool((batch.slot_index >= 0).any()):
            return batch
        if "position_ids" not in _parameters(self.base) or self.family.looks_beside:
            raise UsageError(
                "disable_adapter",
                f"the batch has slots, and {type(self.base).__name__} cannot skip them exactly",
                fix="lay the rows out with model.collator(disabled=True)",
            )
        return replace(batch, attention_mask=batch.attention_mask * (batch.slot_index < 0), slot_index=None)

    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """The base's own `generate` on embedded rows: (batch, new) tokens, or its output object with these.

        Raises:
            UsageError: a base that writes nothing, options that cannot be met.
        """
        if "text" not in self.gives:
            what = f"{type(self.base).__name__} writes no text after vectors"
            raise UsageError("generate", what, "a causal or seq2seq base whose own generate takes inputs_embeds")
        return self._go_on(batch, (), options)

    def write(self, batch: Batch, language: str | None, most: int | None) -> list[tuple[list[int], float]]:
        """What follows the rows, as `likeliest` gives it; at most 20 tokens where neither says how many."""
        # A decoder begins as it did when the text's probability was asked, whatever its generation config says.
        return likeliest(partial(self._go_on, batch, self.decoder_prefix), self.ends, most)

    def _go_on(self, batch: Batch, prefix: tuple[int, ...], options: dict[str, Any]) -> Any:
        """What the base's own `generate` gives after embedded rows; a decoder begins with `prefix`, () as it will."""
        embeds, mask, ids, start = batch.embeds, batch.attention_mask, batch.input_ids, max(len(prefix), 1)
        if self.kind == "causal":
            self._check_sides(mask)
            # New tokens stand right after a row's last one (N32).
            (embeds, _), (ids, mask) = to_the_right(embeds, mask), to_the_right(ids, mask)
            start = int(mask.sum(1).max())
        facts = self.facts
        options = checked(self.base, options, start, facts.max_length if self.kind == "causal" else facts.writes)
        if prefix:
            options["decoder_input_ids"] = torch.tensor(prefix, device=mask.device).expand(len(batch), -1)
        try:
            with self._by_ids(self.base, ids):
                written = self.base.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        except (TypeError, ValueError) as error:
            raise UsageError("generate", first_line(error), "options that the base's own generate takes") from error
        return written if self.kind == "causal" else new_only(written, start)

    def _check_sides(self, mask: Tensor) -> None:
        """Raise where rows would have to be padded on a side on which the base is not exact."""
        if "left" not in self.family.sides and not bool(mask.all()):
            name = type(self.base).__name__
            what = f"rows of different lengths, and a {name} is exact with padding on the right only"
            raise UsageError("generate", what, "rows of one length", "one row at a time")


def _parameters(module: nn.Module) -> frozenset[str]:
    """Names that a module's forward takes: unsupported ones are swallowed silently by many (T§0.1 5)."""
    return _forward_names(type(module))


@cache
def _forward_names(cls: type) -> frozenset[str]:
    return frozenset(inspect.signature(cls.forward).parameters)
