"""A frozen speech model as the rest of the library sees it: from the wave to its features, run, read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..batch import Batch, Reading, Readout
from ..errors import BaseModelError, ConfigError, UsageError, did_you_mean
from .base import Backbone
from .decoder import Decoder
from .families import SPECTRA_AS_WAVES, Family
from .frontend import Frontend, frontend_of
from .heads import Head
from .inside import attention_of, hooked, replaceable


@dataclass(frozen=True)
class AudioFacts:
    """What the collator must know of the backbone: plain data, so that it travels to workers.

    Args:
        rate: samples per second.
        canvas: samples of the canvas where the config names none: the base's own fixed length, else that of the clips
            it was trained on, else one second.
        longest: samples that the base takes at most; None where it has no limit.
        trained: samples of the clips that it was trained on, where its config says so (`input_samples`).
        answer: `decoder` (a decoder step) or `none`.
    """

    rate: int
    canvas: int
    longest: int | None
    trained: int | None
    answer: str


class AudioBackbone(Backbone):
    """A frozen speech model.

    Args:
        base: a transformers model that hears; nothing of it is changed.
        extractor: its feature extractor, which says what the base wants to hear.

    Raises:
        BaseModelError: a class that we cannot run, or an extractor that we do not know.
    """

    modality = "audio"

    def __init__(self, base: PreTrainedModel, extractor: Any) -> None:
        super().__init__(base)
        self.extractor = extractor
        self.frontend: Frontend = frontend_of(extractor)
        self._shorter: dict[int, Frontend] = {}
        self._check_extractor()
        self._in_force: tuple[tuple[str, Any], ...] = ()
        self.decoder: Decoder | None = None
        if "rows" in self.gives:
            self.head = Head(base, Family(body="model", embed="", head=self._path_of(base.get_output_embeddings())))
            self.decoder = Decoder(base, self.head)

    def _check_extractor(self) -> None:
        """Raise where the extractor makes what the base does not take; AST alone takes spectra under a wave's name."""
        name, wanted = type(self.base).__name__, self.base.main_input_name
        spectra = wanted == "input_features" or self.base.config.model_type in SPECTRA_AS_WAVES
        if self.frontend.input_name != wanted or (self.frontend.axes is not None) != spectra:
            what = (
                f"{type(self.extractor).__name__} for a {name}, which takes {'a spectrogram' if spectra else 'a wave'}"
            )
            raise BaseModelError("processing_class", what, "the base's own feature extractor", "AutoFeatureExtractor")

    def _path_of(self, module: nn.Module) -> str:
        return next(name for name, m in self.base.named_modules() if m is module)

    # What it is

    @property
    def stages(self) -> tuple[str, ...]:  # type: ignore[override]
        """Where programs may act: not on the spectrogram of a base that hears the wave itself, nor inside one without
        layers."""
        heard = ("wave",) if self.frontend.axes is None else ("wave", "features")
        return heard if self._layers is None else (*heard, "latent")

    @property
    def body(self) -> nn.Module:
        """The module that gives hidden states: the encoder."""
        if self.kind == "speech-seq2seq":
            return self.base.get_encoder()
        if self.kind == "speech-classifier" and hasattr(self.base, "encoder"):  # Whisper's has no body of that name
            return self.base.encoder
        return self.base.base_model

    @cached_property
    def _layers(self) -> tuple[str, nn.ModuleList] | None:
        prefix = self._path_of(self.body)
        for name, module in self.body.named_modules():
            # By name and by what is in it: Data2Vec's positional convolutions are a list called `layers` too.
            named = isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in ("layers", "layer")
            if named and all(isinstance(layer, GradientCheckpointingLayer) for layer in module):
                return ".".join(part for part in (prefix, name) if part), module
        return None

    @property
    def layers(self) -> tuple[str, nn.ModuleList]:
        """Path and list of the encoder's layers.

        Raises:
            BaseModelError: a base without such a list.
        """
        if self._layers is None:
            raise BaseModelError("model", f"a {type(self.base).__name__} has no list of layers", "a transformer")
        return self._layers

    @property
    def width(self) -> int:
        """Size of the encoder's vectors."""
        return self.base.config.hidden_size

    def state_size(self, pool: str = "mean", layer: int | None = None, parts: int = 1) -> int:
        """Size of what a `state` Reading gives."""
        sizes = getattr(self.base.config, "state_sizes", None)  # of `hidden_states`, where they differ
        place = -1 if layer is None else self.layer_index(layer)
        width = self.width if sizes is None else sizes[place]
        return width * parts * (2 if pool == "statistics" else 1)

    @property
    def gives(self) -> frozenset[str]:
        """Kinds of Reading: states of frames only where the positions of its layers are moments, not patches (AST)."""
        in_time = self._layers is not None and not self.lead
        return super().gives if in_time else super().gives - {"frame_states"}

    @property
    def tokens(self) -> int:
        """Size of a CTC head's vocabulary."""
        return self.base.config.vocab_size

    @property
    def blank(self) -> int:
        """The token by which a CTC head says nothing."""
        return self.base.config.pad_token_id

    def layer_index(self, layer: int) -> int:
        """A layer's place in `hidden_states`, checked."""
        sizes = getattr(self.base.config, "state_sizes", None)
        count = len(sizes) if sizes is not None else len(self.layers[1]) + 1
        if not -count <= layer < count:
            raise BaseModelError("layer", f"{layer} of {count}", f"{-count} to {count - 1}")
        return layer % count

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return self.base.device

    @property
    def decoder_prefix(self) -> tuple[int, ...]:
        """Token ids that the decoder reads before its first word; () for bases without a decoder."""
        return () if self.decoder is None else self.decoder.prompt()

    @property
    def facts(self) -> AudioFacts:
        """What the collator must know."""
        rate, own = self.frontend.sampling_rate, self.frontend.canvas
        trained = getattr(self.base.config, "input_samples", None)  # models of `sources` say it
        return AudioFacts(rate, own or trained or rate, own, trained, self._kind.answer)

    def rms(self) -> float:
        """The unit of program parameters: a wave is in plain amplitude, and features are normalised."""
        return 1.0

    # Running

    def accept(self, batch: Batch) -> Batch:
        """The batch of some columns, as the programs take it.

        Raises:
            UsageError: text, or no sound.
        """
        if batch.input_ids is not None or batch.slot_index is not None:
            raise UsageError("input_ids", "text for a model that hears", "input_values")
        if batch.input_values is None:
            raise UsageError("input_values", "missing", "rows laid out by model.collator()")
        return batch

    def bring(self, batch: Batch, stage: str) -> Batch:
        """The batch at a stage: as a spectrogram, once that is asked for.

        Raises:
            UsageError: a spectrogram of a base that hears the wave itself.
        """
        if stage != "features" or batch.input_features is not None:
            return batch
        if self.frontend.axes is None:
            name = type(self.base).__name__
            raise UsageError("program", f"changes a spectrogram, and a {name} hears the wave", "a program of the wave")
        made = self._front(batch).features(batch.input_values)
        return replace(batch, input_features=self.frontend.turned(made.pop(self.frontend.input_name)), **made)

    def _front(self, batch: Batch) -> Frontend:
        """The front end for the batch's canvas: a Whisper of a shorter one wants fewer frames (S13)."""
        samples, hop = batch.input_values.shape[1], self.frontend.constants.get("hop_length")
        if "max_frames" not in self.frontend.constants or samples >= self.frontend.canvas:
            return self.frontend
        if samples % (2 * hop):
            what, fix = f"{samples} samples", f"{samples // (2 * hop) * 2 * hop or 2 * hop} would do"
            raise ConfigError("CanvasConfig.samples", what, f"a multiple of {2 * hop}: two frames per position", fix)
        if samples not in self._shorter:
            self._shorter[samples] = frontend_of(self.extractor, max_frames=samples // hop)
        return self._shorter[samples]

    def feature_shape(self, samples: int) -> tuple[int, int]:
        """(mels, frames) of the spectrogram of a canvas of so many samples."""
        return tuple(self.bring(_noise(samples, self.device), "features").input_features.shape[1:])

    def signal_frames(self, batch: Batch) -> Tensor:
        """(batch, frames): whether a frame of the spectrogram hears any of the row's own signal."""
        mask = batch.signal_mask
        if mask is None:  # nobody said where the signal sits: it may be anywhere
            mask = torch.ones_like(batch.input_values, dtype=torch.bool)
        return self._front(batch).holds(mask, batch.input_features.shape[2])

    def plain(self, batch: Batch) -> Batch:
        """The batch as the base itself would hear it: no program."""
        return batch

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the base's forward takes."""
        if batch.input_features is not None:
            made = {self.frontend.input_name: self.frontend.turned(batch.input_features)}
            if batch.attention_mask is not None:
                made["attention_mask"] = batch.attention_mask
        else:
            made = self._front(batch).features(batch.input_values)
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in made.items()}

    def run(self, batch: Batch, reading: Reading) -> Readout:
        """The base once, and what `reading` asks for."""
        if reading.kind not in self.gives - {"base"}:
            what = f"{reading.kind!r} is not something that {type(self.base).__name__} gives"
            raise BaseModelError("reading", what, f"one of {sorted(self.gives)}")
        with self._as_long_as(batch), self._hooked(batch.hooks):
            inputs = self._inputs(batch)
            if reading.kind == "state":
                return Readout(self._state(inputs, reading), kind="state")
            if reading.kind == "rows":
                return Readout(self._rows(inputs, reading), kind="rows")
            if reading.kind == "text":
                values = self.decoder.log_probs(inputs, batch.answer_ids, reading.language)
                return Readout(values, kind="text")
            if reading.kind == "frame_states":
                values = self._states(inputs, reading.layer).float()
            else:  # classes or frames
                values = self.base(**inputs).logits.float()
        mask = None if reading.kind == "classes" else self._frames(batch, values.shape[1])
        return Readout(values, mask, reading.kind)

    def _frames(self, batch: Batch, frames: int) -> Tensor:
        """(batch, frames): true up to the end of the row's signal, as large a part of the frames as of the canvas."""
        signal = batch.signal_mask
        if signal is None:  # nobody said where the signal sits: it may be anywhere
            return torch.ones(len(batch), frames, dtype=torch.bool, device=self.device)
        samples = signal.shape[1]
        ends = (signal * torch.arange(1, samples + 1, device=signal.device)).amax(1)  # (batch,)
        count = (ends * frames + samples - 1) // samples
        return torch.arange(frames, device=signal.device) < count.unsqueeze(1)

    def _state(self, inputs: dict[str, Tensor], reading: Reading) -> Tensor:
        if reading.pool in ("answer", "head"):  # of the decoder's first free step
            hidden = self.decoder.first(inputs)
            return hidden if reading.pool == "answer" else self.head.transform(hidden)
        states = self._states(inputs, reading.layer)
        steps = 1 if states.ndim == 2 else states.shape[1]
        if steps < reading.parts:
            what = f"{reading.parts}, and these states have {steps} step{'s' * (steps > 1)} of time"
            raise ConfigError("parts", what, f"at most {steps}", "another layer, or fewer parts")
        if states.ndim == 2:  # (batch, dim): nothing to pool
            return states
        if reading.pool == "first":
            return states[:, 0]
        # (batch, dim) each; the parts are as even as they can be
        return torch.cat([_pooled(part, reading.pool) for part in states.tensor_split(reading.parts, 1)], -1)

    def _states(self, inputs: dict[str, Tensor], layer: int | None) -> Tensor:
        """A layer's states, (batch, positions, dim); those of a base without positions (batch, dim)."""
        deep = layer is not None or hasattr(self.base.config, "state_sizes")
        found = self.body(**inputs, **({"output_hidden_states": True} if deep else {}))
        return (
            found.hidden_states[-1 if layer is None else self.layer_index(layer)] if deep else found.last_hidden_state
        )

    def _rows(self, inputs: dict[str, Tensor], reading: Reading) -> Tensor:
        ids = None if reading.ids is None else torch.tensor(reading.ids, device=self.device)
        return self.head.logits(self.head.transform(self.decoder.first(inputs)), ids)  # (batch, rows)

    def base_output(self, batch: Batch, **kwargs: Any) -> Any:
        """The base's own output (its ModelOutput)."""
        with self._as_long_as(batch), self._hooked(batch.hooks):
            inputs = self._inputs(batch)
            if self.kind == "speech-seq2seq" and "labels" not in kwargs:
                prefix = torch.tensor(self.decoder_prefix, device=self.device)
                kwargs["decoder_input_ids"] = prefix.expand(len(batch), -1)
            return self.base(**inputs, **kwargs)

    def generate(self, batch: Batch, **kwargs: Any) -> Tensor:
        """The base's own `generate` on what it hears; (batch, new)."""
        if self.kind != "speech-seq2seq":
            raise UsageError("generate", f"{type(self.base).__name__} writes no text", "a speech seq2seq base")
        with self._as_long_as(batch), self._hooked(batch.hooks):
            return self.base.generate(**self._inputs(batch), **kwargs)

    def check_language(self, language: str | None) -> None:
        self.decoder.prompt(language)

    def write(self, batch: Batch, language: str | None, most: int | None) -> list[tuple[list[int], float]]:
        """What the decoder writes of each row: `Decoder.write`."""
        with self._as_long_as(batch), self._hooked(batch.hooks):
            return self.decoder.write(self._inputs(batch), language, most)

    # Inside the base, for one call

    @cached_property
    def lead(self) -> int:
        """Learned positions that the base itself puts before the frames: two of AST, which its classifier reads."""
        tokens = ("cls_token", "distillation_token")
        return sum(token in m._parameters for m in self.body.modules() for token in tokens)

    def positions(self, samples: int) -> int:
        """Positions that the encoder's first layer takes, for a canvas of so many samples."""
        seen: list[int] = []
        note = ("layer:0", lambda module, args, kwargs: seen.append(args[0].shape[1]))
        self._silently(samples, (note,))
        return seen[0]

    @torch.no_grad()
    def _silently(self, samples: int, hooks: tuple[tuple[str, Any], ...]) -> None:
        """The encoder once, on noise, for what hooks see there."""
        self.run(replace(_noise(samples, self.device), hooks=hooks), Reading("state", pool="first"))

    def can_add_to_attention(self, samples: int) -> bool:
        """Whether `attention:` is a place of this base: some do not let it be replaced, some ignore it (S16)."""
        if any(attention_of(layer) is None for layer in self.layers[1]) or not replaceable(self.base):
            return False
        called: list[Tensor] = []
        nothing = lambda query, scaling: called.append(query) or torch.zeros_like(query.transpose(1, 2))  # noqa: E731
        hooks = tuple((f"attention:{i}", nothing) for i in range(len(self.layers[1])))
        self._silently(samples, hooks)
        return len(called) == len(hooks)

    def site(self, name: str) -> nn.Module:
        """The module that a latent program names: `encoder`, `output`, `layer:3`, or `attention:3` of that layer.

        Raises:
            UsageError: no such place.
        """
        path, layers = self.layers
        places = {f"layer:{i}": layer for i, layer in enumerate(layers)}
        places |= {f"attention:{i}": attention_of(layer) for i, layer in enumerate(layers)}
        encoder = self.base.get_submodule(path.rpartition(".")[0])
        # AST pools inside its encoder: what it pools is what the last norm gives.
        places |= {"encoder": encoder, "output": encoder.layernorm if self.lead else encoder}
        if places.get(name) is None:
            raise UsageError("program", f"acts at {name!r}", None, did_you_mean(name, places))
        return places[name]

    @contextmanager
    def _hooked(self, hooks: tuple[tuple[str, Any], ...]) -> Iterator[None]:
        """The hooks of a batch, for one call; what a checkpoint recomputes of it later has them too."""
        before, self._in_force = self._in_force, hooks
        try:
            with hooked(self.base, hooks, self.site):
                yield
        finally:
            self._in_force = before

    def again(self) -> AbstractContextManager:
        return self._hooked(self._in_force)

    @contextmanager
    def _as_long_as(self, batch: Batch) -> Iterator[None]:
        """A base of fixed length, made as short as the canvas for one call (S13): both the config's number and the
        table of positions, or its forward refuses."""
        front = self._front(batch)
        if front is self.frontend:
            yield
            return
        table, own = self.body.embed_positions, self.base.config.max_source_positions
        positions = front.constants["max_frames"] // 2
        try:
            self.base.config.max_source_positions = positions
            self.body.embed_positions = nn.Embedding.from_pretrained(table.weight[:positions])
            yield
        finally:
            self.base.config.max_source_positions = own
            self.body.embed_positions = table


def _pooled(states: Tensor, pool: str) -> Tensor:
    """(batch, time, dim) to (batch, dim), or mean and deviation side by side, (batch, 2 dim)."""
    mean = states.mean(1)
    if pool == "mean":
        return mean
    spread = (states - mean.unsqueeze(1)).square().mean(1)
    return torch.cat([mean, (spread + 1e-12).sqrt()], -1)  # a deviation of zero has no slope


def _noise(samples: int, device: torch.device) -> Batch:
    """A row that is sure to have features: silence has none where they are divided by their deviation (S18)."""
    draw = torch.Generator().manual_seed(0)
    return Batch(input_values=(0.1 * torch.randn(1, samples, generator=draw)).to(device))
