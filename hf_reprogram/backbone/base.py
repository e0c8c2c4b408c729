"""What every backbone does alike: put a base to sleep, checkpoint it, give it back as it was found."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import BaseModelError, ConfigError
from .kinds import AUDIO_KINDS, KINDS, Kind, kind_of
from .writing import ends_of


ROUGH = 6e-2  # of bfloat16, and of bases whose numbers hang on their batch


def tolerance(dtype: torch.dtype) -> float:
    """Allowed difference of numbers relative to the largest one. Half precision rounds differently in every order of
    sums."""
    return {torch.bfloat16: ROUGH, torch.float16: 2e-2}.get(dtype, 1e-4)


# On a CPU with bfloat16 products bitsandbytes lays 4-bit weights out anew at the first forward without gradients. What
# is trained in front of them then gets none, without a word, and rows shorter than a block of 64 are an error.
REPACKS = "support_avx512bf16_for_cpu"


class Backbone:
    """A plain object around a base. It is no nn.Module: as one it would register the base twice (N10).

    Args:
        base: a transformers model; nothing of it is changed.

    Raises:
        BaseModelError: a family or a class that we cannot run.
    """

    modality: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]  # where programs may act, in the order in which a row passes them
    one_pass: ClassVar[bool] = False  # whether rows of different programs run through the base together

    def __init__(self, base: PreTrainedModel) -> None:
        self.base = base
        self.kind = kind_of(base)
        self.head: Any = None  # of a language model
        self.ledger: list[tuple[nn.Module, str, Any]] = []  # flags as found, to be put back by `restore`
        self.trained: dict[str, bool] = {}  # by name: offloading makes a base's parameters anew in every pass
        self.dropouts: list[tuple[nn.Module, str, float]] = []  # rates as found, while checkpointing is on

    @property
    def _kind(self) -> Kind:
        return KINDS.get(self.kind) or AUDIO_KINDS[self.kind]

    @property
    def auto_class(self) -> str:
        """Name of the transformers auto class that loads the base."""
        return self._kind.auto_class

    @property
    def gives(self) -> frozenset[str]:
        """Kinds of Reading that this base can answer."""
        if self.kind == "causal" and not _goes_on(type(self.base)):
            return self._kind.gives - {"text"}
        return self._kind.gives

    @property
    def classes(self) -> int:
        """Number of the base's own classes, where it is a classifier."""
        return self.base.config.num_labels

    def state_size(self, pool: str = "answer", layer: int | None = None, parts: int = 1) -> int:
        """Size of what a `state` Reading gives."""
        return self.base.config.hidden_size * parts * (2 if pool == "statistics" else 1)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base's activations."""
        return self.base.dtype

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens of which each ends a text that it writes."""
        return ends_of(self.base)

    def check_language(self, language: str | None) -> None:
        """Raise a ConfigError where the base cannot be asked to write in a language."""
        if language is not None:
            name = type(self.base).__name__
            raise ConfigError("language", f"{language!r} for a {name} that is not asked for one", "None")

    def serving(self) -> AbstractContextManager[None]:
        """A time in which nothing trains."""
        return nullcontext()

    def forget(self) -> None:
        """Let go of what was kept from step to step."""

    # Flags on the base

    def freeze(self) -> None:
        """Put the base to sleep: no gradients, eval mode. What was changed is written down for `restore`.

        A base that its owner checkpoints goes on being checkpointed, non-reentrant.
        """
        if self.ledger:
            return
        self.trained = {name: p.requires_grad for name, p in self.base.named_parameters(remove_duplicate=False)}
        flags = ("training", "gradient_checkpointing", "_gradient_checkpointing_func", "_requires_grad", REPACKS)
        self.ledger = [(m, flag, vars(m)[flag]) for m in self.base.modules() for flag in flags if flag in vars(m)]
        self.base.requires_grad_(False)
        self.base.eval()
        for module in self.base.modules():
            if "_requires_grad" in vars(module):  # an audio encoder that would make its input a leaf (S1, S3)
                module._requires_grad = False
            if REPACKS in vars(module):
                setattr(module, REPACKS, False)
                if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                    module.state_dict()  # lays them out as they were
        if self.base.is_activation_checkpointing:
            self.checkpoint(True)

    def checkpoint(self, on: bool) -> None:
        """Turn activation checkpointing of the base on (non-reentrant) or off.

        The base stays in eval mode, in which its layers would skip checkpointing; so the layers alone, not what is in
        them, are told that they train. Dropout stays off: modules of it inside them sleep, and rates that a layer
        holds itself (BART) are zero for the time being.

        Raises:
            BaseModelError: a family that cannot (ALBERT).
        """
        if on and not self.base.supports_gradient_checkpointing:
            name = type(self.base).__name__
            raise BaseModelError("gradient_checkpointing", f"{name} has none", fix="smaller batches, accumulated")
        # Not by the base's own method: that leaves a hook on its embeddings for ever, and makes their output need a
        # gradient even where only a mapping trains. Slots bring their own.
        if on or self.base.is_activation_checkpointing:
            again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), self.again()))
            self.base._set_gradient_checkpointing(enable=on, gradient_checkpointing_func=again)
        for module in self.base.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = on
                for name, value in [(n, v) for n, v in vars(module).items() if "dropout" in n and type(v) is float]:
                    if on and value:
                        self.dropouts.append((module, name, value))
                        setattr(module, name, 0.0)
        if not on:
            for module, name, value in self.dropouts:
                setattr(module, name, value)
            self.dropouts = []

    def again(self) -> AbstractContextManager:
        """What must be in force while a checkpoint of the call that is running now is recomputed."""
        return nullcontext()

    def restore(self) -> None:
        """Put every flag back as it was found."""
        self.checkpoint(False)
        for module, name, value in self.ledger:
            setattr(module, name, value)
        for name, parameter in self.base.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(self.trained.get(name, parameter.requires_grad))
        self.ledger = []


@cache
def _goes_on(cls: type) -> bool:
    """Whether transformers lets a model go on from embeddings (Falcon-H1 it does not)."""
    prepare = getattr(cls, "prepare_inputs_for_generation", None)
    return prepare is not None and "inputs_embeds" in signature(prepare).parameters
