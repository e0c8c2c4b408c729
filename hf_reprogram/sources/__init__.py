"""Source models that transformers lacks, each one file: a config and a model, known to the Auto classes on import.

| file | model | input | reads as |
| --- | --- | --- | --- |
| `attention_rnn` | the keyword spotter of Voice2Series and AR-SCR | wave (batch, samples) | 36 words |
| `crepe` | a pitch tracker | frame (batch, 1024) | 360 pitches, multi-label |
| `ge2e` | a speaker encoder | wave (batch, samples) | one vector of 256 numbers |

All hear 16 kHz, let the gradient through to the wave, and are loaded and saved by transformers' own `from_pretrained`
and `save_pretrained`. Their processing class is a `Wav2Vec2FeatureExtractor(do_normalize=False)`; a folder that
`scripts/fetch_models.py` lays out holds it.

Example:

    >>> import hf_reprogram.sources
    >>> from transformers import AutoConfig
    >>> AutoConfig.for_model("crepe").num_labels
    360
"""

from __future__ import annotations

from .attention_rnn import AttentionRnnConfig, AttentionRnnForAudioClassification
from .crepe import CrepeConfig, CrepeForAudioClassification
from .ge2e import Ge2eConfig, Ge2eModel


__all__ = [
    "AttentionRnnConfig",
    "AttentionRnnForAudioClassification",
    "CrepeConfig",
    "CrepeForAudioClassification",
    "Ge2eConfig",
    "Ge2eModel",
]
