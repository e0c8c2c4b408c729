"""The floor, the best bare loop for a step; and how a step is measured: by counts, and by paired times (P§I).

Counts are exact and the same on every machine, so that tests may stand on them: FLOPs, bytes that autograd keeps, and
the shapes of all tensors that are made. Times are for benchmarks alone.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm


Work = Callable[[], Any]


class BareLoop:
    """A frozen causal body, the rows of some label words, and nothing else: no mask, no program, no mapping.

    Args:
        body: takes `inputs_embeds`, gives `last_hidden_state`.
        label_rows: (classes, dim) rows of the output matrix.
        embeds: (batch, time, width) vectors, slots included; right-padded, so that a causal body needs no mask.
        answer: (batch,) the position that is read.
        labels: (batch,) target ids.
    """

    def __init__(self, body: nn.Module, label_rows: Tensor, embeds: Tensor, answer: Tensor, labels: Tensor) -> None:
        self.body, self.label_rows, self.answer, self.labels = body, label_rows, answer, labels
        self.embeds = embeds.detach().requires_grad_()
        self.each = torch.arange(len(embeds))

    def loss(self) -> Tensor:
        """Cross-entropy over the label words."""
        hidden = self.body(inputs_embeds=self.embeds, use_cache=False).last_hidden_state  # (batch, time, dim)
        return F.cross_entropy(F.linear(hidden[self.each, self.answer], self.label_rows), self.labels)

    def step(self) -> Tensor:
        """Forward, and the gradient of the loss at the input."""
        return torch.autograd.grad(self.loss(), self.embeds)[0]

    @torch.no_grad()
    def forward(self) -> Tensor:
        """The body alone."""
        return self.body(inputs_embeds=self.embeds, use_cache=False).last_hidden_state


# Counts --------------------------------------------------------------------------------------------------------------


def flops(work: Work) -> int:
    """Floating point operations of all matrix products (torch counts no attention on a CPU)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def saved_bytes(loss: Callable[[], Tensor], frozen: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward: each storage once, `frozen` ones apart."""
    resident = _storages(frozen)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in resident:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = loss()  # held until the sum is taken: a freed storage's address may be used again
        total = sum(kept.values())
    del graph
    return total


class ShapeRecorder(TorchDispatchMode):
    """Shapes of all tensors made inside, views of `frozen` ones apart.

    Args:
        frozen: tensors that were there before, such as the base's weights.
    """

    def __init__(self, frozen: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.resident = _storages(frozen)
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.resident:
                self.shapes.append(tuple(tensor.shape))
        return made

    def wider_than(self, size: int) -> list[tuple[int, ...]]:
        """Shapes with a dimension of at least `size`."""
        return [shape for shape in self.shapes if any(n >= size for n in shape)]

    def largest(self) -> int:
        """Elements of the largest tensor made."""
        return max((torch.Size(shape).numel() for shape in self.shapes), default=0)


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors}


# Times ---------------------------------------------------------------------------------------------------------------


class Seconds(NamedTuple):
    """Time of one run."""

    cpu: float
    wall: float


def interleaved(variants: dict[str, Work], rounds: int) -> dict[str, list[Seconds]]:
    """Times of all variants by round: once each to warm up, then every round all of them, there and back."""
    taken: dict[str, list[Seconds]] = {name: [] for name in variants}
    with tqdm(total=(rounds + 1) * len(variants), unit="run", leave=False, mininterval=2) as shown:
        for number in range(rounds + 1):
            names = list(variants) if number % 2 else list(variants)[::-1]
            gc.collect()
            gc.disable()
            try:
                for name in names:
                    shown.set_description(f"round {number} of {rounds}, {name}", refresh=False)
                    time_taken = timed(variants[name])
                    if number:
                        taken[name].append(time_taken)
                    shown.update()
            finally:
                gc.enable()
    return taken


def timed(work: Work) -> Seconds:
    """CPU and wall time of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def spread(values: Sequence[float]) -> tuple[float, float, float, int]:
    """(median, lowest, highest, count), as a Row takes them."""
    return statistics.median(values), min(values), max(values), len(values)
