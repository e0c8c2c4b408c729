"""Logits of some rows of the vocabulary only: (batch, rows), never (batch, time, vocabulary)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .families import Family


class Head:
    """The output side of a base: its transform, some rows of its matrix, what it does to the logits afterwards.

    Everything before the rows is position-wise, so the answer position is gathered BEFORE it (P§B).

    Args:
        base: the frozen model.
        family: its row of data.
    """

    def __init__(self, base: PreTrainedModel, family: Family) -> None:
        self.base, self.family = base, family

    @property
    def output(self) -> nn.Module:
        """The output matrix as the module that holds it; asked anew each time, so moves and casts need no care."""
        return self.base.get_submodule(self.family.head)

    @property
    def size(self) -> int:
        """Rows of the output matrix (the vocabulary)."""
        return self.output.weight.shape[0]

    @property
    def width(self) -> int:
        """Size of the states that the output matrix takes; not always the hidden size (ALBERT)."""
        return self.output.weight.shape[1]

    def transform(self, state: Tensor) -> Tensor:
        """Hidden states as the output matrix expects them: (..., dim) -> (..., head dim)."""
        flag = self.family.state_scale
        if flag and getattr(self.base.config, flag):
            state = state * self.base.config.d_model**-0.5
        for path in self.family.transform:
            state = self.base.get_submodule(path)(state)
        return state

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """(weight (rows, head dim), bias (rows,) or None) of some rows, float32, without gradient."""
        output = self.output
        bias = output.bias.detach()[ids].float() if getattr(output, "bias", None) is not None else None
        if self.family.logits_bias:
            extra = self.base.get_buffer(self.family.logits_bias)[0, ids].float()
            bias = extra if bias is None else bias + extra
        return output.weight.detach()[ids].float(), bias

    def logits(self, state: Tensor, ids: Tensor | None) -> Tensor:
        """Logits of the rows `ids`, of all rows where None: transformed states (..., head dim) -> (..., rows).

        Label rows and their product are float32 whatever the base's dtype: they are few, and the loss stands on them.
        """
        output = self.output
        # Anything but a bare Linear (quantised, adapted, hooked) keeps its own way to the logits; columns come after.
        if type(output) is not nn.Linear or output._forward_hooks or output._forward_pre_hooks:
            full = output(state.to(output.weight.dtype) if output.weight.is_floating_point() else state).float()
            if self.family.logits_bias:
                full = full + self.base.get_buffer(self.family.logits_bias)[0].float()
            return full if ids is None else full[..., ids]
        if ids is None:
            full = output(state).float()
            return full + self.base.get_buffer(self.family.logits_bias)[0].float() if self.family.logits_bias else full
        weight, bias = self.rows(ids)
        return F.linear(state.float(), weight, bias)
