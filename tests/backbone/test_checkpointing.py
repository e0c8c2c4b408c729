"""A base that its owner checkpoints: recomputed our way while it is wrapped, given back as it was (N3, N4)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

import hf_reprogram as hr
from hf_reprogram.errors import UsageError
from hf_reprogram.testing import ROWS, flags, logits_of, program_config, tiny


FAMILIES = ("llama", "bert", "t5")


def layers(base: Any) -> list[Any]:
    return [m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)]


def gradient(model: hr.ReprogramModel) -> torch.Tensor:
    model.backbone.sharing = None  # a checkpointed base shares nothing: the same sums in another order
    model.zero_grad()
    model.train()
    model(**model.collator()(ROWS)).loss.backward()
    return model.active_programs()[0].slots.grad.clone()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_of_its_owner(family: str, reentrant: bool) -> None:
    """Reentrant, the slots would get a wrong gradient, or none, without a word."""
    plain = hr.get_reprogram_model(*_with(tiny(family)))
    base, tokenizer = tiny(family)
    base.train()
    base.activation_checkpointing_enable({"use_reentrant": reentrant})
    before, functions = flags(base), [m._gradient_checkpointing_func for m in layers(base)]

    model = hr.get_reprogram_model(*_with((base, tokenizer)))
    assert base.is_activation_checkpointing
    runs = _count_layer_runs(base)
    torch.testing.assert_close(gradient(model), gradient(plain), atol=0, rtol=0)
    assert len(runs) == 2 * len(layers(base)), "nothing was recomputed"
    assert all(m._gradient_checkpointing_func.keywords["use_reentrant"] is False for m in layers(base))

    assert model.unload() is base
    for handle in runs.handles:
        handle.remove()
    assert flags(base) == before and base.is_activation_checkpointing
    assert [m._gradient_checkpointing_func for m in layers(base)] == functions


@pytest.mark.parametrize("family", FAMILIES)
def test_turned_on_and_off_while_wrapped(family: str) -> None:
    base, tokenizer = tiny(family)
    before = flags(base)
    model = hr.get_reprogram_model(*_with((base, tokenizer)))
    found = gradient(model)
    model.activation_checkpointing_enable()
    assert torch.equal(gradient(model), found)
    model.activation_checkpointing_disable()
    assert not base.is_activation_checkpointing and not any(m.training for m in base.modules())
    model.activation_checkpointing_enable()
    model.unload()
    assert flags(base) == before and not base.is_activation_checkpointing


def test_turned_off_while_wrapped_it_is_on_again_afterwards() -> None:
    base, tokenizer = tiny("llama")
    base.activation_checkpointing_enable()
    model = hr.get_reprogram_model(*_with((base, tokenizer)))
    model.activation_checkpointing_disable()
    assert not base.is_activation_checkpointing
    assert model.unload().is_activation_checkpointing


def test_dropout_stays_off_in_recomputed_layers() -> None:
    base, tokenizer = tiny("bert")
    base.activation_checkpointing_enable()
    model = hr.get_reprogram_model(*_with((base, tokenizer)))
    first = logits_of(model.train(), ROWS)
    assert torch.equal(logits_of(model, ROWS), first)


def test_reentrant_is_refused() -> None:
    model = hr.get_reprogram_model(*_with(tiny("llama")))
    with pytest.raises(UsageError, match="use_reentrant=False"):
        model.activation_checkpointing_enable({"use_reentrant": True})


def _with(pair: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    return pair[0], program_config("prompt"), pair[1]


class _Runs(list):
    handles: list[Any]


def _count_layer_runs(base: Any) -> _Runs:
    """One entry for every run of a layer's first Linear: twice per layer where it is recomputed."""
    runs = _Runs()
    first = [next(m for m in layer.modules() if isinstance(m, torch.nn.Linear)) for layer in layers(base)]
    runs.handles = [m.register_forward_hook(lambda *_: runs.append(1)) for m in first]
    return runs
