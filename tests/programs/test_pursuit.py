"""Orthogonal matching pursuit against sums that are known, and against scikit-learn's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sklearn.linear_model import OrthogonalMatchingPursuit
from torch import Tensor, nn

from hf_reprogram.programs import _pursuit
from hf_reprogram.programs._pursuit import Atoms, WeightedAll, WeightedFew, gradient_of_few, pursue


def table(tokens: int = 50, width: int = 16) -> Atoms:
    """Atoms of a random table with a row of zeros, of which some rows are a hundred times as long."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, width, generator=generator)
    rows[3] = 0
    rows[::7] *= 100
    embed = nn.Embedding.from_pretrained(rows)
    return Atoms(SimpleNamespace(embed=embed, vocab_size=tokens, width=width, device=torch.device("cpu")))


def everywhere(rows: int, k: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(rows, k, dtype=torch.long), torch.ones(rows, k, dtype=torch.bool)


def test_atoms_are_of_one_size() -> None:
    atoms = table()
    assert atoms(torch.arange(50)).square().mean(1).sqrt().tolist() == pytest.approx([1.0] * 3 + [0.0] + [1.0] * 46)
    assert torch.allclose(
        atoms(torch.tensor([[7]])) * atoms.sizes(torch.tensor([[7]])), atoms.raw(torch.tensor([[7]]))
    )


def test_a_vector_of_the_table_is_found_whatever_its_sign() -> None:
    atoms = table()
    ids, weights, rest = pursue(torch.stack([2 * atoms.raw(torch.tensor(9)), -atoms.raw(torch.tensor(20))]), atoms,
                                *everywhere(2, 1))  # fmt: skip
    assert ids.tolist() == [[9], [20]]
    sizes = atoms.sizes(torch.tensor([9, 20]))
    assert torch.allclose(weights.squeeze(1), torch.tensor([2.0, -1.0]) * sizes)
    assert rest.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("slices", [7, 8192])
def test_it_is_scikit_learn_s(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pursuit, "SLICE", slices)
    monkeypatch.setattr(_pursuit, "ROWS", 4)
    atoms = table()
    wanted = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    ids, weights, rest = pursue(wanted, atoms, *everywhere(6, 5))
    columns = atoms(torch.arange(50)).T.double().numpy()  # (width, tokens)
    for row, found, weight, left in zip(wanted, ids, weights, rest, strict=True):
        model = OrthogonalMatchingPursuit(n_nonzero_coefs=5, fit_intercept=False).fit(columns, row.double().numpy())
        assert sorted(found.tolist()) == model.coef_.nonzero()[0].tolist()
        assert torch.allclose(weight.double(), torch.from_numpy(model.coef_)[found], atol=1e-4)
        gap = row.double().numpy() - columns @ model.coef_
        assert float(left) == pytest.approx((gap**2).sum() ** 0.5 / float(row.norm()), abs=1e-5)


def test_held_atoms_stay_and_none_comes_twice() -> None:
    atoms = table()
    support = torch.tensor([[5, 9, 0], [0, 0, 9]])
    free = torch.tensor([[False, True, True], [True, True, False]])
    wanted = atoms(torch.tensor([9, 9])) + 0.1 * atoms(torch.tensor([30, 31]))
    ids, *_ = pursue(wanted, atoms, support, free)
    assert ids[0, 0] == 5 and 9 in ids[0, 1:].tolist()
    assert ids[1, 2] == 9 and all(len(set(row)) == 3 for row in ids.tolist())


def test_more_atoms_than_directions_weigh_nothing_and_are_finite() -> None:
    atoms = table(width=4)
    ids, weights, rest = pursue(
        torch.randn(3, 4, generator=torch.Generator().manual_seed(2)), atoms, *everywhere(3, 8)
    )
    assert weights.isfinite().all() and rest.max() < 1e-5
    assert all(len(set(row)) == 8 for row in ids.tolist())


def test_sums_have_the_gradients_of_the_plain_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pursuit, "SLICE", 9)
    atoms = table()
    support = torch.tensor([[1, 2], [2, 40]])
    few = torch.tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)
    every = torch.randn(2, 50, generator=torch.Generator().manual_seed(3), requires_grad=True)
    for made, weights, plain in (
        (WeightedFew.apply(few, support, atoms, None), few, lambda: (few.unsqueeze(-1) * atoms(support)).sum(1)),
        (WeightedAll.apply(every, atoms), every, lambda: every @ atoms(torch.arange(50))),
    ):
        assert torch.allclose(made, plain(), atol=1e-5)
        ours, theirs = (torch.autograd.grad(x.square().sum(), weights)[0] for x in (made, plain()))
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_told_says_the_gradient_of_the_weights() -> None:
    atoms, heard = table(), []
    weights = torch.tensor([[1.0, 0.0]], requires_grad=True)

    def told(gradient: Tensor) -> Tensor:
        heard.append(gradient)
        return gradient_of_few(gradient, torch.tensor([[1, 9]]), atoms)

    made = WeightedFew.apply(weights, torch.tensor([[1, 2]]), atoms, told)
    made.backward(torch.ones_like(made))
    assert torch.equal(heard[0], torch.ones(1, 16))
    assert torch.allclose(weights.grad, atoms(torch.tensor([[1, 9]])).sum(2))
