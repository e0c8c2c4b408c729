"""Inside a base for one call: hooks where a latent program acts, and attention with something added to it.

Nothing stays on the base: what is installed for a call is taken off when it ends, whatever happens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


Added = Callable[[Tensor, float], Tensor]  # (batch, heads, time, size) of queries, their scale -> what is added
_ADDED: WeakKeyDictionary[nn.Module, Added] = WeakKeyDictionary()


def attention_of(layer: nn.Module) -> nn.Module | None:
    """The self-attention of an encoder's layer, by the two names that transformers gives it."""
    named = dict(layer.named_children())
    return named.get("attention", named.get("self_attn"))


@contextmanager
def hooked(
    base: PreTrainedModel, hooks: Sequence[tuple[str, Any]], site: Callable[[str], nn.Module]
) -> Iterator[None]:
    """The hooks of a batch, for one call.

    Args:
        base: whose modules they are.
        hooks: (site name, function). The function of `attention:3` gives what is added to that attention; of a name
            that ends in `:after` it changes the module's output; of any other name its input.
        site: the module of a name.
    """
    found = [(name, site(name.removesuffix(":after")), function) for name, function in hooks]
    added = {module: function for name, module, function in found if name.startswith("attention:")}
    with ExitStack() as stack:
        for name, module, function in found:
            if name.endswith(":after"):
                handle = module.register_forward_hook(function, with_kwargs=True)
            elif not name.startswith("attention:"):
                handle = module.register_forward_pre_hook(function, with_kwargs=True)
            else:
                continue
            stack.callback(handle.remove)
        if added:
            stack.enter_context(_adding(base, added))
        yield


@contextmanager
def by_ids(module: nn.Module, embedding: nn.Module, ids: Tensor) -> Iterator[None]:
    """Calls of a module with embeddings become calls with ids, and the embeddings take the place of what its embedding
    module gives for them (slot overwrite: T§0.1 1).

    Args:
        module: the one that is called with `inputs_embeds`.
        embedding: the one inside it that is called with ids.
        ids: (batch, time); where embeddings are no word's, of any word that the base does not treat on its own.
    """
    given: list[Tensor] = []  # embeddings that wait for the embedding module's call

    def swap(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:  # what is written after a row is embedded as it is
            return None
        given.append(embeds)
        beams = ids.repeat_interleave(len(embeds) // len(ids), 0)  # those of a row stand together
        return args, {**kwargs, "input_ids": beams, "inputs_embeds": None}

    def put(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return given.pop().to(output.dtype) if given else None

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(swap, with_kwargs=True).remove)
        stack.callback(embedding.register_forward_hook(put).remove)
        yield


@contextmanager
def _adding(base: PreTrainedModel, added: dict[nn.Module, Added]) -> Iterator[None]:
    own = base.config._attn_implementation
    try:
        _ADDED.update(added)
        base.set_attn_implementation(_registered(own))
        yield
    finally:
        base.set_attn_implementation(own)
        for module in added:
            _ADDED.pop(module, None)


def _registered(own: str) -> str:
    """The name of an implementation of attention that adds to what another one gives; with that one's masks."""
    name = f"hf_reprogram_{own}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(_attention, own))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[own])
    return name


def _attention(
    own: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Any]:
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    out, weights = ALL_ATTENTION_FUNCTIONS.get_interface(own, eager)(module, query, key, value, mask, **kwargs)
    function = _ADDED.get(module)
    if function is not None:  # not of the decoder, say
        out = out + function(query, kwargs.get("scaling")).to(out.dtype)  # (batch, time, heads, size)
    return out, weights


def replaceable(base: PreTrainedModel) -> bool:
    """Whether a base lets its attention be replaced, or says that it does."""
    own = base.config._attn_implementation
    try:
        base.set_attn_implementation(_registered(own))
        return base.config._attn_implementation != own
    except (ValueError, KeyError):
        return False
    finally:
        base.set_attn_implementation(own)
