"""What a `processing_class` holds: a tokenizer, a feature extractor, or both in one processor."""

from __future__ import annotations

from typing import Any

from transformers import FeatureExtractionMixin, PreTrainedTokenizerBase, ProcessorMixin

from .errors import ConfigError


def tokenizer_of(processor: Any) -> Any:
    """Its tokenizer, or None."""
    if isinstance(processor, ProcessorMixin):
        return getattr(processor, "tokenizer", None)
    return processor if isinstance(processor, PreTrainedTokenizerBase) else None


def extractor_of(processor: Any) -> Any:
    """Its feature extractor, or None."""
    if isinstance(processor, ProcessorMixin):
        return getattr(processor, "feature_extractor", None)
    return processor if isinstance(processor, FeatureExtractionMixin) else None


def check_processor(processor: Any) -> None:
    """Raise where `processing_class` is given and is none of these (a name, say)."""
    if processor is not None and tokenizer_of(processor) is None and extractor_of(processor) is None:
        what = f"{processor!r} is a {type(processor).__name__}"[:120]
        fix = "AutoTokenizer.from_pretrained(...); AutoFeatureExtractor or AutoProcessor for a model that hears"
        raise ConfigError("processing_class", what, "a tokenizer, a feature extractor, or a processor of both", fix)
