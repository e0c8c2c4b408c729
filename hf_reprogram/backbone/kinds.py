"""Kinds of models by their head: how each is loaded again, where it answers, and what can be read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)

from ..errors import BaseModelError


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Args:
        names: the transformers mapping (or mappings) that list its classes.
        auto_class: the transformers auto class that loads it again.
        answer: where the answer slot stands: `last` (the position before it, causal), `mask` (a mask token), `decoder`
            (a decoder step), `none` (there is none; a causal family of this kind answers `last` all the same).
        gives: kinds of Reading.
    """

    names: tuple[Mapping[object, object], ...]
    auto_class: str
    answer: str
    gives: frozenset[str]


# Seq2seq stands first: BART is listed as a masked language model too. Bare models come last.
KINDS: dict[str, Kind] = {
    "seq2seq": Kind(
        (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,),
        "AutoModelForSeq2SeqLM",
        "decoder",
        frozenset({"rows", "state", "sequence", "text", "base"}),
    ),
    "causal": Kind(
        (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,),
        "AutoModelForCausalLM",
        "last",
        frozenset({"rows", "state", "sequence", "positions", "text", "base"}),
    ),
    "masked": Kind(
        (MODEL_FOR_MASKED_LM_MAPPING_NAMES,),
        "AutoModelForMaskedLM",
        "mask",
        frozenset({"rows", "state", "positions", "base"}),
    ),
    "classifier": Kind(
        (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,),
        "AutoModelForSequenceClassification",
        "none",
        frozenset({"classes", "state", "base"}),
    ),
    "encoder": Kind(
        (MODEL_MAPPING_NAMES, MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES),
        "AutoModel",
        "none",
        frozenset({"state", "base"}),
    ),
}


# What hears. A new class is listed by transformers, or registered with its auto class (`hf_reprogram.sources`).
AUDIO_KINDS: dict[str, Kind] = {
    "speech-classifier": Kind(
        (MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,),
        "AutoModelForAudioClassification",
        "none",
        frozenset({"classes", "state", "frame_states", "base"}),
    ),
    "speech-ctc": Kind(
        (MODEL_FOR_CTC_MAPPING,), "AutoModelForCTC", "none", frozenset({"frames", "state", "frame_states", "base"})
    ),
    "speech-seq2seq": Kind(
        (MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,),
        "AutoModelForSpeechSeq2Seq",
        "decoder",
        frozenset({"rows", "state", "frame_states", "text", "base"}),
    ),
    "speech-encoder": Kind((MODEL_MAPPING,), "AutoModel", "none", frozenset({"state", "frame_states", "base"})),
}


def modality_of(base: PreTrainedModel) -> str:
    """`audio` for a model whose main input is a wave or a spectrogram of one, else `text`."""
    return "audio" if base.main_input_name in ("input_values", "input_features") else "text"


def kind_of(base: PreTrainedModel) -> str:
    """A key of `KINDS`, or of `AUDIO_KINDS`, by the auto mapping that lists the base's class.

    Raises:
        BaseModelError: a class that none lists, or one that cannot be fed embeddings.
    """
    name = type(base).__name__
    if modality_of(base) == "audio":
        return _audio_kind_of(base)
    if base.main_input_name != "input_ids":
        raise BaseModelError("model", f"{name} takes {base.main_input_name}", "a model that reads or hears")
    kind = next((k for k, facts in KINDS.items() if any(_lists(names, name) for names in facts.names)), None)
    if kind is None and MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(base.config), None) is type(base):
        kind = "classifier"  # one that was registered with its auto class
    if kind is None:
        raise BaseModelError(
            "model", f"{name} has no head that we can read", "a model from " + ", ".join(_auto_classes())
        )
    if kind == "classifier" and base.config.is_encoder_decoder:
        raise BaseModelError(
            "model",
            f"{name} takes token ids only: its decoder cannot be fed embeddings",
            "a classifier without a decoder",
            "the same family's language model with a verbalizer",
        )
    if kind == "encoder" and base.config.is_encoder_decoder:
        raise BaseModelError(
            "model", f"{name} is an encoder and a decoder without a head", "one with its head", "AutoModelForSeq2SeqLM"
        )
    return kind


def _audio_kind_of(base: PreTrainedModel) -> str:
    for kind, facts in AUDIO_KINDS.items():
        listed = next((m[type(base.config)] for m in facts.names if type(base.config) in m), ())
        if type(base) in (listed if isinstance(listed, tuple) else (listed,)):
            if kind == "speech-encoder" and base.config.is_encoder_decoder:
                break
            return kind
    name = type(base).__name__
    if base.config.is_encoder_decoder:
        fix = "AutoModelForSpeechSeq2Seq; its encoder is read with pool='mean'"
        raise BaseModelError("model", f"{name} is an encoder and a decoder without a head", "one with its head", fix)
    classes = ", ".join(kind.auto_class for kind in AUDIO_KINDS.values())
    raise BaseModelError("model", f"{name} has no head that we can read", f"a model from {classes}")


def _lists(names: Mapping[object, object], name: str) -> bool:
    """Whether an auto mapping lists a class; a family may list several."""
    return any(name == n or (isinstance(n, tuple) and name in n) for n in names.values())


def _auto_classes() -> list[str]:
    return [kind.auto_class for kind in KINDS.values()]
