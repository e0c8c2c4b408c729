"""Vectors as sums of few source embeddings: orthogonal matching pursuit over the base's table, many vectors at once.

The table is read through the base's own embedding, slice by slice: neither a copy of it nor the scores of all tokens
are ever held whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


SLICE = 8192  # tokens whose embeddings are held at once
ROWS = 1024  # vectors for which they are scored at once


class Atoms:
    """The base's embeddings, each scaled to a root mean square of 1; a row of zeros stays one.

    Of one size, so that weights of them are comparable, and trained at one rate, whatever a token's own size is.

    Args:
        backbone: of the base.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone, self.count, self.width = backbone, backbone.vocab_size, backbone.width

    @torch.no_grad()
    def raw(self, ids: Tensor) -> Tensor:
        """Embeddings of ids (...,) as they are: (..., width), float32."""
        ids = ids.to(self.backbone.device)
        return self.backbone.embed(ids.reshape(1, -1))[0].float().reshape(*ids.shape, -1)

    def __call__(self, ids: Tensor) -> Tensor:
        """Atoms of ids (...,): (..., width)."""
        return nn.functional.normalize(self.raw(ids), dim=-1) * self.width**0.5

    def sizes(self, ids: Tensor) -> Tensor:
        """Root mean square of each embedding, (...,)."""
        return self.raw(ids).norm(dim=-1) / self.width**0.5

    def slices(self) -> Iterator[Tensor]:
        """All ids, in slices."""
        yield from torch.arange(self.count, device=self.backbone.device).split(SLICE)


@torch.no_grad()
def pursue(wanted: Tensor, atoms: Atoms, support: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Orthogonal matching pursuit: one atom after the other, each that which correlates most, whatever its sign, with
    what those before it leave over.

    Args:
        wanted: (rows, width) vectors to approximate.
        atoms: the table.
        support: (rows, k) ids.
        free: (rows, k) bool: places to be filled; the ids in the others are held, and come first.

    Returns:
        ids (rows, k), held ones in their places; weights (rows, k) of the sum of atoms that is nearest; and what that
        leaves over, (rows,), relative to the length of `wanted`.
    """
    parts = [_pursue(*part, atoms) for part in zip(*(x.split(ROWS) for x in (wanted, support, free)), strict=True)]
    ids, weights, rest = (torch.cat(found) for found in zip(*parts, strict=True))
    return ids, weights, rest


def _pursue(wanted: Tensor, support: Tensor, free: Tensor, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
    rows, k = support.shape
    order = free.int().argsort(dim=1, stable=True)  # (rows, k): held places first
    ids, held = support.gather(1, order), ~free.gather(1, order)
    basis = wanted.new_zeros(rows, k, wanted.shape[1])  # orthonormal directions of the atoms so far
    triangle = torch.eye(k, device=wanted.device).repeat(rows, 1, 1)  # atoms = triangle' basis
    left = wanted
    for j in range(k):
        taken = held.clone()
        taken[:, :j] = True
        best = _most_correlated(left, atoms, ids.where(taken, -1))
        ids[:, j] = ids[:, j].where(held[:, j], best)
        atom = atoms(ids[:, j])  # (rows, width)
        rest, along = atom, wanted.new_zeros(rows, k)
        for _ in range(2):  # once more: atoms of like tokens are nearly parallel
            part = torch.einsum("rkw,rw->rk", basis, rest)
            rest, along = rest - torch.einsum("rk,rkw->rw", part, basis), along + part
        length = rest.norm(dim=1, keepdim=True)
        new = length > 1e-4 * atom.norm(dim=1, keepdim=True)  # else it says nothing new, and its weight stays 0
        basis[:, j] = (rest / length.clamp(min=1e-30)) * new
        triangle[:, :j, j] = along[:, :j] * new
        triangle[:, j, j] = length.squeeze(1).where(new.squeeze(1), 1.0)
        left = left - basis[:, j] * (basis[:, j] * left).sum(1, keepdim=True)
    projected = torch.einsum("rkw,rw->rk", basis, wanted).unsqueeze(-1)  # (rows, k, 1)
    weights = torch.linalg.solve_triangular(triangle, projected, upper=True).squeeze(-1)
    rest = left.norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-30)
    return support.scatter(1, order, ids), torch.zeros_like(weights).scatter(1, order, weights), rest


def _most_correlated(left: Tensor, atoms: Atoms, taken: Tensor) -> Tensor:
    """(rows,) id of the atom with the largest |correlation| with `left` (rows, width), but for `taken` (rows, k)."""
    best = left.new_full((len(left),), -1.0)
    found = torch.zeros(len(left), dtype=torch.long, device=left.device)
    for ids in atoms.slices():
        scores = nn.functional.pad((left @ atoms(ids).T).abs(), (0, 1))  # the last column is a place for ids elsewhere
        here = (taken >= ids[0]) & (taken <= ids[-1])
        scores = scores.scatter(1, (taken - ids[0]).where(here, len(ids)), -1.0)[:, :-1]
        score, place = scores.max(1)
        found = found.where(score <= best, ids[place])
        best = torch.maximum(score, best)
    return found


def gradient_of_few(gradient: Tensor, support: Tensor, atoms: Atoms) -> Tensor:
    """Gradient of weights (symbols, k) of the atoms `support` from that of their sums (symbols, width)."""
    return torch.stack([(gradient * atoms(ids)).sum(1) for ids in support.unbind(1)], 1)


class WeightedFew(torch.autograd.Function):
    """(symbols, width) = sum_j weights[:, j] atoms[support[:, j]].

    `told` hears the gradient of the sum and says that of the weights, of another support if it likes: what a new atom
    should weigh is learned in the same pass in which it comes.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, support: Tensor, atoms: Atoms, told: Any) -> Tensor:
        """Args: (symbols, k), (symbols, k), the table, and a function (symbols, width) -> (symbols, k), or None."""
        ctx.support, ctx.atoms, ctx.told = support, atoms, told
        return sum(weights[:, j : j + 1] * atoms(support[:, j]) for j in range(weights.shape[1]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        """The gradient of the weights."""
        found = ctx.told(gradient) if ctx.told else gradient_of_few(gradient, ctx.support, ctx.atoms)
        return found, None, None, None


class WeightedAll(torch.autograd.Function):
    """(rows, width) = weights (rows, vocabulary) @ atoms, without a copy of the table in memory."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, atoms: Atoms) -> Tensor:
        """Args: (rows, vocabulary), and the table."""
        ctx.atoms = atoms
        return sum(weights[:, ids[0] : ids[-1] + 1] @ atoms(ids) for ids in atoms.slices())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        """The gradient of the weights."""
        return torch.cat([gradient @ ctx.atoms(ids).T for ids in ctx.atoms.slices()], 1), None
