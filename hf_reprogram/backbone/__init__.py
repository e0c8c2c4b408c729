"""Our view of a frozen base: how to embed, position, run and read it. Knows families, knows no method."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..errors import BaseModelError
from ..processors import extractor_of
from .base import Backbone
from .kinds import modality_of


def backbone_of(base: PreTrainedModel, processor: Any = None) -> Backbone:
    """The backbone of a base's modality.

    Raises:
        BaseModelError: a base that we cannot run, or one that hears without its feature extractor.
    """
    if modality_of(base) == "text":
        from .text import TextBackbone

        return TextBackbone(base)
    from .audio import AudioBackbone

    if extractor_of(processor) is None:
        given = "None" if processor is None else f"a {type(processor).__name__}"
        fix = "processing_class=AutoFeatureExtractor.from_pretrained(...), or AutoProcessor"
        raise BaseModelError("processing_class", f"{given} for a {type(base).__name__}", "its feature extractor", fix)
    return AudioBackbone(base, extractor_of(processor))
