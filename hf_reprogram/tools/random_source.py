"""A model that knows nothing, in the form of one that does: what a program reaches there is no use of knowledge."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def random_source(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A copy of a model with every parameter drawn anew from a normal of its own mean and deviation.

    Scale, shapes and code are the base's, the knowledge is gone; what a program reaches here, it would reach on any
    model of this form. Tied parameters are drawn once and stay tied. Buffers (rotary frequencies and the like) are
    form, not knowledge, and stay. No output gain (M§C.6) is set: with the tensors' own scale the label scores of
    random SmolLM2 spread wider than the real one's, not narrower.

    Args:
        model: stays as it is.
        seed: of the draw.

    Example:

        >>> from hf_reprogram.testing import tiny
        >>> base, _ = tiny("llama")
        >>> random_source(base).num_parameters() == base.num_parameters()
        True
    """
    source = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in source.parameters():  # a tied parameter comes once
        spread, mean = torch.std_mean(parameter.double(), correction=0)
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * spread.float().cpu() + mean.float().cpu())
    return source
