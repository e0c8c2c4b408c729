"""Gradients of rows and the tangent kernel: the reference's vectors (M§C.3), and what they are on a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_reprogram.errors import UsageError
from hf_reprogram.testing import ROWS, build, program_config
from hf_reprogram.tools.alignment import agreement, gradients, kernel_alignment


J, Y = np.array([[1.0, 0], [1, 1]]), np.array([1.0, 0])


def test_the_size_of_a_loss_does_not_matter() -> None:
    found = np.random.default_rng(0).normal(size=(8, 5)) + 0.5
    assert agreement(1000 * found) == pytest.approx(agreement(found))
    assert agreement(np.zeros((3, 2))) == 0.0


def test_kernel_of_the_reference() -> None:
    values = np.linalg.eigvalsh(J @ J.T)
    assert values.tolist() == pytest.approx([0.381966, 2.618034], abs=1e-6)
    assert kernel_alignment(J, Y) == pytest.approx(1 / np.linalg.norm(J @ J.T))


def test_one_direction_that_holds_the_targets() -> None:
    y = np.array([1.0, -2.0, 0.5])
    assert kernel_alignment(np.outer(y, [3.0, 1.0]), y) == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_their_mean_is_the_gradient_of_the_batch(family: str) -> None:
    model = build(program_config("prompt"), family)
    found = gradients(model, ROWS)
    model(**model.collator()(ROWS)).loss.backward()
    whole = torch.cat([p.grad.flatten() for part in model.active_programs() for p in part.parameters()])
    np.testing.assert_allclose(found.mean(0), whole.numpy(), atol=1e-5 * float(whole.abs().max()))
    assert 0.0 < agreement(found) <= 1.0


def test_a_program_that_does_not_train() -> None:
    model = build(program_config("none"), "llama")
    with pytest.raises(UsageError, match="has no program that trains"):
        gradients(model, ROWS)
