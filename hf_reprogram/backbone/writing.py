"""What may be asked of a language model's own `generate` when its input is vectors: checked, completed or refused.

The base sees embeddings, not token ids. Whatever counts or compares the prompt's tokens would find none: transformers
then ignores it with a warning, fails inside, or does something else without a word. Here each is told or mended.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from ..errors import UsageError, did_you_mean


NEW_TOKENS = 20  # where neither the caller nor the base's generation config says how many: transformers' own number

_OURS = ("inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids", "decoder_input_ids")
_LENGTHS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
# What reads the prompt's token ids, and the value at which it does nothing.
_BLIND: dict[str, Any] = {
    "assistant_model": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "negative_prompt_ids": None,
    "prompt_lookup_num_tokens": None,
    "token_healing": False,
}
# What transformers itself no longer does, but fetches code for, and the value at which it does nothing.
_CODE: dict[str, Any] = {
    "constraints": None,
    "custom_generate": None,
    "dola_layers": None,
    "force_words_ids": None,
    "num_beam_groups": 1,
    "penalty_alpha": None,
}
_COUNTS = ("max_new_tokens", "num_beams", "num_return_sequences")


def checked(base: PreTrainedModel, given: dict[str, Any], width: int, limit: int | None) -> dict[str, Any]:
    """The options for the base's `generate`.

    Args:
        base: a causal or a seq2seq language model.
        given: the caller's options.
        width: positions that are taken before the first new token: the laid out rows', or the decoder's start.
        limit: positions that the base has; None where it has no limit.

    Raises:
        UsageError: an unknown option; one that reads the prompt's ids, or counts its positions; numbers that do not
            fit together, or no room for so many tokens.
    """
    known = {*vars(GenerationConfig()), *inspect.signature(GenerationMixin.generate).parameters, "tokenizer"}
    for name in given:
        if name in _OURS:
            raise UsageError(f"generate({name})", "given, and rows are laid out here", "rows or a batch, and options")
        if name not in known or name in ("self", "kwargs"):
            fix = did_you_mean(name, {k for k in known if not k.startswith("_")} - {*_LENGTHS, "self", "kwargs"})
            raise UsageError(f"generate({name})", "no option of the base's generate", None, fix)
    asked = {**_said(given.get("generation_config")), **given}
    _refuse(asked)
    own = _said(base.generation_config)
    made, room = dict(given), None if limit is None else limit - width
    new = new_tokens(base, given)
    if new is None and not (base.config.is_encoder_decoder and own.get("max_length")):
        new = made["max_new_tokens"] = NEW_TOKENS if room is None else max(min(NEW_TOKENS, room), 1)
    if new is not None and room is not None and new > room:
        what = f"{new} after {width} positions, and the base has {limit}"
        raise UsageError("generate(max_new_tokens)", what, f"at most {max(room, 0)}", "shorter rows, or fewer tokens")
    end = asked.get("eos_token_id", own.get("eos_token_id"))
    if "pad_token_id" not in asked and "pad_token_id" not in own and end is not None:
        made["pad_token_id"] = (
            end[0] if isinstance(end, list) else end
        )  # as transformers does, which says so each time
    penalty = asked.get("repetition_penalty", own.get("repetition_penalty", 1.0))
    if penalty != 1.0 and not base.config.is_encoder_decoder:
        # Transformers would pass over as many NEW tokens as the row has padding before it (its count is of a prompt
        # of ids): a row's text would depend on the rows beside it.
        made["repetition_penalty"] = 1.0
        mine = RepetitionPenaltyLogitsProcessor(float(penalty))
        made["logits_processor"] = LogitsProcessorList([mine, *(given.get("logits_processor") or [])])
    return made


def new_tokens(base: PreTrainedModel, given: Mapping[str, Any]) -> int | None:
    """How many new tokens are asked for, by the caller or by the base's generation config."""
    asked = {**_said(given.get("generation_config")), **given}.get("max_new_tokens")
    return asked or _said(getattr(base, "generation_config", None)).get("max_new_tokens")


def _said(config: Any) -> dict[str, Any]:
    """What a generation config says."""
    if config is not None and not isinstance(config, GenerationConfig):
        what, fix = f"a {type(config).__name__}", "GenerationConfig(max_new_tokens=8), or max_new_tokens=8 alone"
        raise UsageError("generate(generation_config)", what, "a transformers GenerationConfig", fix)
    return {} if config is None else {k: v for k, v in vars(config).items() if v is not None}


def _refuse(asked: dict[str, Any]) -> None:
    """Raise for the first option that cannot be met."""
    for name, instead in _LENGTHS.items():
        if asked.get(name):
            what = f"{asked[name]!r} counts the slots and the padding of a row too"
            raise UsageError(f"generate({name})", what, instead, f"{instead}=N counts new tokens only")
    for name, neutral in _BLIND.items():
        if asked.get(name, neutral) not in (None, neutral):
            what = "reads the token ids of the prompt, and slots have none"
            raise UsageError(f"generate({name})", what, "an option that looks at new tokens only", f"leave {name} out")
    for name, neutral in _CODE.items():
        if asked.get(name) and asked[name] != neutral:
            what = "asks for code that is no part of transformers' own generate"
            raise UsageError(f"generate({name})", what, "greedy, beams or sampling", f"leave {name} out")
    for name in _COUNTS:
        value = asked.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UsageError(f"generate({name})", f"{value!r}", "a whole number from 1")
    beams, several = asked.get("num_beams") or 1, asked.get("num_return_sequences") or 1
    if several > beams and not asked.get("do_sample"):
        what = f"{several} texts of {beams} beam{'s' if beams > 1 else ''}"
        raise UsageError(
            "generate(num_return_sequences)", what, f"at most {beams}", "more num_beams, or do_sample=True"
        )


class Best(LogitsProcessor):
    """Notes the log-probability of the likeliest token of each step: a vector, where all scores would be kept."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        self.seen.append(scores.float().log_softmax(-1).amax(-1))
        return scores


def given(ids: Tensor | None) -> Tensor:
    """The texts whose probability is asked for, or a UsageError where there are none."""
    if ids is None:
        fix = "predict(rows) writes one"
        raise UsageError("labels", "missing: a text's probability is asked for", "rows with their texts", fix)
    return ids


def ends_of(base: PreTrainedModel) -> tuple[int, ...]:
    """Tokens of which each ends a text of a base's."""
    found = base.generation_config.eos_token_id
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def said(ids: list[int], steps: Tensor, ends: Sequence[int]) -> tuple[list[int], float]:
    """A text's ids up to its end, and the geometric mean of its tokens' probabilities, the end's among them.

    Args:
        ids: that were written, the likeliest at each step.
        steps: (steps,) what `Best` noted.
        ends: tokens that end a text.
    """
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:end], float(steps[: end + 1].mean().exp())


def likeliest(
    write: Callable[[dict[str, Any]], Tensor], ends: Sequence[int], most: int | None
) -> list[tuple[list[int], float]]:
    """Texts of the likeliest token at every step, as `said` gives them.

    Args:
        write: options -> (batch, new) ids by the base's own `generate`.
        ends: tokens that end a text.
        most: tokens of a text; None leaves that to the base.
    """
    best, options = Best(), {} if most is None else {"max_new_tokens": most}
    plain = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    written = write({**options, **plain, "logits_processor": LogitsProcessorList([best])})
    steps = torch.stack(best.seen, 1)  # (batch, steps)
    return [said(ids, row, ends) for ids, row in zip(written.tolist(), steps, strict=True)]


def to_the_right(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with their padding moved before them, in whatever way they came: (batch, time, ...), (batch, time)."""
    if bool(mask[:, -1].all()):
        return rows, mask
    order = mask.argsort(dim=1, stable=True)  # (batch, time): padding first, then the rest as it stood
    moved = rows.gather(1, order.view(*order.shape, *(1,) * (rows.ndim - 2)).expand_as(rows))
    return moved, mask.gather(1, order)


def new_only(written: Any, before: int) -> Any:
    """What a `generate` gave without the `before` tokens that its decoder began with."""
    if isinstance(written, torch.Tensor):
        return written[:, before:]
    written.sequences = written.sequences[:, before:]
    return written
