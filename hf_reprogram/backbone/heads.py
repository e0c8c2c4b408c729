"""Logits of some rows of the vocabulary only: (batch, rows), never (batch, time, vocabulary)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from .families import Family


SLICE = 4096  # rows of the vocabulary at a time, where all of them must be summed over


def through(base: PreTrainedModel, steps: tuple[str, ...], state: Tensor) -> Tensor:
    """A state after some modules of a base, by their paths, and activations, by `@name`."""
    for step in steps:
        state = (ACT2FN[step[1:]] if step.startswith("@") else base.get_submodule(step))(state)
    return state


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
        return self.output.out_features  # not its weight's shape: a quantised one is packed

    @property
    def width(self) -> int:
        """Size of the states that the output matrix takes; not always the hidden size (ALBERT)."""
        rest = self._rest()
        return self.output.in_features + (0 if rest is None else rest.out_features)

    def _rest(self) -> nn.Linear | None:
        """The module that holds the rest of every row, where the family splits its matrix."""
        return self.base.get_submodule(self.family.head_rest) if self.family.head_rest else None

    def transform(self, state: Tensor) -> Tensor:
        """Hidden states as the output matrix expects them: (..., dim) -> (..., head dim)."""
        flag = self.family.state_scale
        if flag and getattr(self.base.config, flag):
            state = state * self.base.config.d_model**-0.5
        return through(self.base, self.family.transform, state)

    def rows(self, ids: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """(weight (rows, head dim), bias (rows,) or None) of some rows: float32, no gradient, scaled as logits."""
        output = self.output
        if type(output) is nn.Linear:
            with align_module_device(output):  # an offloaded one is there only while it is used
                weight = output.weight.detach()[ids].float()
                bias = output.bias.detach()[ids].float() if output.bias is not None else None
        else:
            weight, bias = self._rows_by_running(ids)
        rest = self._rest()
        if rest is not None and weight.shape[-1] < self.width:
            with align_module_device(rest):
                weight = torch.cat([weight, rest.weight.detach().T[ids].float()], -1)
        if self.family.logits_bias:
            extra = self._extra()[ids]
            bias = extra if bias is None else bias + extra
        return weight * self.scale, bias if bias is None else bias * self.scale

    @torch.no_grad()
    def _rows_by_running(self, ids: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Rows of a matrix that is packed or adapted: what its module makes of the unit vectors."""
        units = torch.eye(self.width, device=self.output.weight.device)
        zero = self._own(torch.zeros_like(units[:1]))[0, ids]
        return torch.cat([self._own(part)[:, ids] - zero for part in units.split(256)]).T.contiguous(), zero

    def logits(self, state: Tensor, ids: Tensor | slice | None) -> Tensor:
        """Logits of the rows `ids`, of all rows where None: transformed states (..., head dim) -> (..., rows).

        Label rows and their product are float32 whatever the base's dtype: they are few, and the loss stands on them.
        """
        if ids is None or not self.sliceable:
            full = self._all(state)
            return full if ids is None else full[..., ids]
        weight, bias = self.rows(ids)
        return self.cap(F.linear(state.float(), weight, bias))

    @property
    def sliceable(self) -> bool:
        """Whether rows may be taken alone: anything but a bare Linear (quantised, adapted, hooked) keeps its own way
        to the logits, and columns come after."""
        output = self.output
        return type(output) is nn.Linear and not output._forward_hooks and not output._forward_pre_hooks

    def _own(self, state: Tensor) -> Tensor:
        output = self.output
        if not self.sliceable and output.weight.is_floating_point():
            state = state.to(output.weight.dtype)
        rest = self._rest()
        if rest is None:
            return output(state).float()
        own, others = state.split([output.in_features, rest.out_features], -1)
        with align_module_device(rest):
            return output(own).float() + F.linear(others, rest.weight.detach().T.to(others.dtype)).float()

    def _all(self, state: Tensor) -> Tensor:
        full = self._own(state)
        if self.family.logits_bias:
            full = full + self._extra()
        return self.cap(full * self.scale)

    def _extra(self) -> Tensor:
        """What is added to the logits beside the output matrix's own bias: (vocabulary,)."""
        path, _, name = self.family.logits_bias.rpartition(".")
        owner = self.base.get_submodule(path)
        with align_module_device(owner):
            return getattr(owner, name).detach().float().view(-1)

    @property
    def scale(self) -> float:
        """What the family multiplies all logits by."""
        config, family = self.base.config, self.family
        scale = getattr(config, family.logits_scale) if family.logits_scale else 1.0
        return scale / getattr(config, family.logits_divisor) if family.logits_divisor else scale

    def cap(self, logits: Tensor) -> Tensor:
        """What the family does to its logits at the very end."""
        limit = getattr(self.base.config, self.family.softcap) if self.family.softcap else None
        return logits if limit is None else limit * torch.tanh(logits / limit)

    def log_probs(self, state: Tensor, ids: Tensor) -> Tensor:
        """Log-probability of one token per state, over the whole vocabulary: (n, head dim), (n,) -> (n,).

        The normaliser is summed over slices of the vocabulary, each recomputed in backward, so that no tensor of the
        vocabulary's size is ever made.
        """
        if not self.sliceable:
            return self._all(state).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        weight, bias = self.rows(ids)
        own = (state.float() * weight).sum(-1)
        own = self.cap(own if bias is None else own + bias)
        size = min(SLICE, -(-self.size // 2))
        slices = [slice(start, min(start + size, self.size)) for start in range(0, self.size, size)]
        parts = [checkpoint(self._normaliser, state, part, use_reentrant=False) for part in slices]  # each (n,)
        return own - torch.stack(parts, -1).logsumexp(-1)

    def _normaliser(self, state: Tensor, part: slice) -> Tensor:
        return self.logits(state, part).logsumexp(-1)
