"""Models that are asked and not run: a callable, another process, an endpoint. They give scores, and no gradients.

To the library they are classifiers whose states are their scores, so that programs, mappings, artefacts, `predict` and
`evaluate` work as on any base; `fit_blackbox` trains. A text is put together again from its tokens before it is asked,
so programs that change words act on it, and those that add vectors cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForSequenceClassification,
    ByT5Tokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from ..errors import BaseModelError, ConfigError, UsageError
from .channel import Ask, Channel
from .endpoint import Endpoint
from .parts import feature_extractor


SAMPLES = "a fine day", "hello"  # asked once when a model is wrapped


class _RemoteConfig(PreTrainedConfig):
    """What both share: who is asked, and for what."""

    source: str = ""
    answers: list[str] | tuple[str, ...] = ()
    words = None  # no field: what has none, as a callable, is the base that it was before words counted

    @property
    def asked(self) -> str:
        """What is asked, in words."""
        named = f"{self.source!r} for {', '.join(self.answers)}"
        return named if self.words is None else f"{named} (words {', '.join(map(repr, self.words))})"

    @property
    def hidden_size(self) -> int:
        """Its states are its scores."""
        return self.num_labels


class RemoteTextConfig(_RemoteConfig):
    """A model that is asked in texts.

    Args:
        source: what is asked, by name and version.
        answers: names of its classes, in their order.
        words: that an endpoint is asked for, in the same order; a callable has none.
        vocab_size: of the tokenizer by which rows are laid out; the model itself never sees a token.
    """

    model_type = "remote_text"
    vocab_size: int = 384


class RemoteAudioConfig(_RemoteConfig):
    """A model that is asked in waves.

    Args:
        source: what is asked, by name and version.
        answers: names of its classes, in their order.
        sampling_rate: of the waves, in Hz.
        input_samples: length of a canvas where none is given.
    """

    model_type = "remote_audio"
    sampling_rate: int = 16000
    input_samples: int = 16000


class _Remote(PreTrainedModel):
    """What both share: a channel, and a parameter, without which a model has no device."""

    base_model_prefix = "model"
    channel: Channel | None = None

    def asked(self, inputs: Sequence[Any]) -> Tensor:
        """(inputs, K) scores."""
        if self.channel is None:
            what = f"nothing to ask: {self.config.source!r} was loaded without its channel"
            raise UsageError("model", what, "hr.remote_text(...) or hr.remote_audio(...)")
        return torch.from_numpy(self.channel(inputs)).to(self.device)


def _no_gradient(values: Tensor) -> None:
    if values.requires_grad and torch.is_grad_enabled():
        what = "a model that is asked gives no gradient"
        raise UsageError("model", what, "training without gradients", "hr.fit_blackbox(model, rows)")


class RemoteTextModel(_Remote):
    """The body: the scores of a text at each of its positions. Its embedding of a token is the token's number."""

    config_class = RemoteTextConfig

    def __init__(self, config: RemoteTextConfig, tokenizer: Any = None) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.embed_tokens = nn.Embedding(config.vocab_size, 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            module.weight.copy_(torch.arange(module.num_embeddings).unsqueeze(1))

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, **_: Any,
    ) -> BaseModelOutput:  # fmt: skip
        """States (batch, time, K)."""
        if inputs_embeds is not None:
            _no_gradient(inputs_embeds)
            values = inputs_embeds.detach().squeeze(-1)  # (batch, time)
            input_ids = values.round().long()
            if (values - input_ids).abs().max() > 1e-3:
                what = "vectors that are no tokens: a model that is asked reads words only"
                raise BaseModelError("program", what, "none, vocabulary or words", "a program that changes words")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = [
            self.tokenizer.decode(row[keep > 0].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for row, keep in zip(input_ids.cpu(), mask.cpu(), strict=True)
        ]
        scores = self.asked(texts)  # (batch, K)
        return BaseModelOutput(last_hidden_state=scores.unsqueeze(1).expand(-1, input_ids.shape[1], -1))


class RemoteForSequenceClassification(_Remote):
    """The scores of texts."""

    config_class = RemoteTextConfig

    def __init__(self, config: RemoteTextConfig, tokenizer: Any = None) -> None:
        super().__init__(config)
        self.model = RemoteTextModel(config, tokenizer)
        self.score = nn.Identity()
        self.post_init()

    def sample_ids(self) -> list[list[int]]:
        """Two texts as anyone might ask them, for the probe: many servers refuse an empty prompt or odd bytes."""
        return [self.model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in SAMPLES]

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Logits (batch, K)."""
        states = self.model(input_ids, **inputs).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(states[:, 0]))


class RemoteForAudioClassification(_Remote):
    """The scores of waves (batch, samples)."""

    config_class = RemoteAudioConfig
    main_input_name = "input_values"

    def __init__(self, config: RemoteAudioConfig) -> None:
        super().__init__(config)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def forward(self, input_values: Tensor, **_: Any) -> SequenceClassifierOutput:
        """Logits (batch, K)."""
        _no_gradient(input_values)
        scores = self.asked(list(input_values.detach().float().cpu().numpy()))
        return SequenceClassifierOutput(logits=scores, hidden_states=(scores,))


def remote_text(
    ask: Ask, classes: Sequence[str], source: str, tokenizer: Any = None, **channel: Any
) -> tuple[RemoteForSequenceClassification, Any]:
    """(model, tokenizer) of a model that is asked in texts.

    Args:
        ask: texts to (texts, K) scores, or to the numbers of the classes that come first; `hr.Endpoint` is one.
        classes: names of the K classes, or label words.
        source: what is asked, by name and version; answers and programs of another source, or of the same for other
            classes, for other words of an endpoint or in another order, are refused. Answers of another `model` or
            `top` of an endpoint are too; its URL may change.
        tokenizer: by which rows are laid out; it must put a text together again as it was. None takes bytes, of
            which a slot of `words` is then a single one.
        channel: of `Channel`: cache, most (queries), seconds, together, rebuild.

    Raises:
        BaseModelError: a tokenizer that changes texts.
        ConfigError: an endpoint of more or fewer words than classes.

    Example:

        >>> model, tokenizer = remote_text(lambda texts: [[len(t), 1.0] for t in texts], ["long", "short"], "length")
        >>> model(**tokenizer("so good", return_tensors="pt")).logits.tolist()
        [[7.0, 1.0]]
    """
    _each_once(classes, "remote_text(classes)")
    if isinstance(ask, Endpoint) and len(ask.words) != len(classes):
        what = f"{len(classes)} classes {list(classes)!r} of an endpoint with {len(ask.words)} words {ask.words!r}"
        raise ConfigError("remote_text(classes)", what, "a class for each word, in their order")
    tokenizer = ByT5Tokenizer() if tokenizer is None else tokenizer
    sample = "It's a test: ÄÖ (x), 1.5 %"
    back = tokenizer.decode(
        tokenizer(sample)["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    if back != sample:
        what = f"{type(tokenizer).__name__} makes {back!r} of {sample!r}"
        raise BaseModelError("tokenizer", what, "one of bytes, which keeps every character", "leave it out")
    config = RemoteTextConfig(
        source=source, answers=list(classes), vocab_size=len(tokenizer), id2label=dict(enumerate(classes)),
        **({"words": ask.words} if isinstance(ask, Endpoint) else {}),
    )  # fmt: skip
    model = RemoteForSequenceClassification(config, tokenizer).eval()
    model.model.channel = Channel(ask, config.asked, len(classes), **channel)
    return model, tokenizer


def remote_audio(
    ask: Ask, classes: Sequence[str], source: str, sampling_rate: int = 16000, **channel: Any
) -> tuple[RemoteForAudioClassification, Any]:
    """(model, feature extractor) of a model that is asked in waves, (samples,) float32 each.

    Args:
        ask, classes, source, channel: as of `remote_text`.
        sampling_rate: of the waves, in Hz.

    Example:

        >>> model, _ = remote_audio(lambda waves: [[w.max(), w.min()] for w in waves], ["up", "down"], "extremes")
        >>> model(torch.tensor([[0.5, -1.0]])).logits.tolist()
        [[0.5, -1.0]]
    """
    _each_once(classes, "remote_audio(classes)")
    config = RemoteAudioConfig(
        source=source, answers=list(classes), sampling_rate=sampling_rate, id2label=dict(enumerate(classes))
    )
    model = RemoteForAudioClassification(config).eval()
    model.channel = Channel(ask, config.asked, len(classes), **channel)
    return model, feature_extractor(config)


def _each_once(classes: Sequence[str], where: str) -> None:
    if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
        raise ConfigError(where, f"{classes!r}", "a list of names, each once")


def channel_of(base: nn.Module) -> Channel | None:
    """The channel of a model that is asked; None of any other.

    Example:

        >>> channel_of(nn.Linear(1, 1)) is None
        True
    """
    found = (getattr(module, "channel", None) for module in (base, getattr(base, "model", None)))
    return next((channel for channel in found if isinstance(channel, Channel)), None)


AutoConfig.register("remote_text", RemoteTextConfig, exist_ok=True)
AutoModelForSequenceClassification.register(RemoteTextConfig, RemoteForSequenceClassification, exist_ok=True)
AutoConfig.register("remote_audio", RemoteAudioConfig, exist_ok=True)
AutoModelForAudioClassification.register(RemoteAudioConfig, RemoteForAudioClassification, exist_ok=True)
