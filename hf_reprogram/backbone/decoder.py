"""The decoder of a model that hears and writes: its prompt, the probability of a given text, a text of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from ..errors import ConfigError, DataError, did_you_mean
from .heads import Head
from .writing import Best, ends_of, given, said


Inputs = dict[str, Tensor]  # of the base's forward: waves or spectrograms, and their mask


class Decoder:
    """A plain object around a base, as the backbone is.

    Args:
        base: an encoder with a decoder.
        head: its output matrix.
    """

    def __init__(self, base: PreTrainedModel, head: Head) -> None:
        self.base, self.head = base, head

    def prompt(self, language: str | None = None) -> tuple[int, ...]:
        """Token ids that it reads before the first word.

        Args:
            language: of a base that asks for one (Whisper), as a code or a name; None is that of its generation
                config, English where it has none.

        Raises:
            ConfigError: a language that it does not know.
        """
        known = self.base.generation_config
        made = [self.base.config.decoder_start_token_id]
        if getattr(known, "is_multilingual", False):
            made += [known.lang_to_id[f"<|{self._language(language)}|>"], known.task_to_id[self._task]]
        elif language is not None:
            name = type(self.base).__name__
            raise ConfigError("language", f"{language!r} for a {name} that is not asked for one", "None")
        silent = getattr(known, "no_timestamps_token_id", None)
        return tuple(made if silent is None else [*made, silent])

    def _language(self, given: str | None) -> str:
        known = self.base.generation_config
        wanted = (given or getattr(known, "language", None) or "en").lower().strip("<|>")
        code = TO_LANGUAGE_CODE.get(wanted, wanted)
        if f"<|{code}|>" not in known.lang_to_id:
            codes = [name.strip("<|>") for name in known.lang_to_id]
            raise ConfigError("language", f"{given!r}", fix=did_you_mean(wanted, codes))
        return code

    @property
    def _task(self) -> str:
        return getattr(self.base.generation_config, "task", None) or "transcribe"

    @property
    def longest(self) -> int:
        """Tokens that it reads at most, those of its prompt among them."""
        config = self.base.config
        return getattr(config, "max_target_positions", None) or config.max_position_embeddings

    def first(self, inputs: Inputs) -> Tensor:
        """The state before the first word, (batch, dim)."""
        return self._states(inputs, self._expanded(inputs, self.prompt()))[:, -1]

    def log_probs(self, inputs: Inputs, ids: Tensor | None, language: str | None) -> Tensor:
        """log p of every token of given texts after those before it, (batch, tokens); 0 where a text has no more.

        Args:
            inputs: what the base hears.
            ids: (batch, tokens), below 0 where a text has no more.
            language: as for `prompt`.

        Raises:
            UsageError: no texts.
            DataError: a text longer than the decoder.
        """
        ids = given(ids)
        there, prompt = ids >= 0, self.prompt(language)
        if len(prompt) + ids.shape[1] > self.longest:
            row, room = int(there.sum(1).argmax()), self.longest - len(prompt)
            what = f"a text of {int(there[row].sum())} tokens, its end among them"
            raise DataError(f"row {row} of the batch", what, f"at most {room}", "shorter clips with shorter texts")
        before = torch.cat([self._expanded(inputs, prompt), ids.clamp(min=0)[:, :-1]], 1)
        states = self._states(inputs, before)[:, len(prompt) - 1 :]  # (batch, tokens, dim)
        chosen = self.head.log_probs(self.head.transform(states[there]), ids[there])
        return torch.zeros(ids.shape, device=ids.device).masked_scatter(there, chosen)

    def write(self, inputs: Inputs, language: str | None, most: int | None) -> list[tuple[list[int], float]]:
        """Texts of its own, the likeliest token at every step: their ids without prompt and end, and the geometric
        mean of their tokens' probabilities (those that the base may not write left out).

        Args:
            inputs: what the base hears.
            language: as for `prompt`.
            most: tokens of a text; None is the base's own limit.
        """
        prompt, best = self.prompt(language), Best()
        config = copy.deepcopy(self.base.generation_config)
        config.do_sample, config.num_beams, config.max_length = False, 1, config.max_length or self.longest
        if getattr(config, "is_multilingual", False):  # or it would look for the language itself
            config.language, config.task = self._language(language), self._task
        written = self.base.generate(
            **inputs,
            decoder_input_ids=self._expanded(inputs, prompt),
            generation_config=config,
            logits_processor=LogitsProcessorList([best]),
            stopping_criteria=StoppingCriteriaList([_Enough(best, most)]),
        )
        steps = torch.stack(best.seen, 1)  # (batch, steps)
        return [self._cut(ids, prompt, row) for ids, row in zip(written.tolist(), steps, strict=True)]

    def _cut(self, ids: list[int], prompt: tuple[int, ...], steps: Tensor) -> tuple[list[int], float]:
        ids = ids[len(prompt) :] if tuple(ids[: len(prompt)]) == prompt else ids
        return said(ids, steps, ends_of(self.base))

    def _expanded(self, inputs: Inputs, prompt: tuple[int, ...]) -> Tensor:
        return torch.tensor(prompt, device=self.base.device).expand(len(next(iter(inputs.values()))), -1)

    def _states(self, inputs: Inputs, ids: Tensor) -> Tensor:
        return self.base.base_model(**inputs, decoder_input_ids=ids, use_cache=False).last_hidden_state


class _Enough(StoppingCriteria):
    """Stops after so many tokens, where `max_new_tokens` would warn that the base has a `max_length` of its own."""

    def __init__(self, best: Best, most: int | None) -> None:
        self.best, self.most = best, most

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        enough = self.most is not None and len(self.best.seen) >= self.most
        return torch.full((len(input_ids),), enough, device=input_ids.device)
