"""Losses against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from hf_reprogram.config import PROBLEM_TYPES
from hf_reprogram.losses import LOSSES, single_label


LOGITS = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])  # softmax (1/4, 3/4) and (4/5, 1/5)
LABELS = torch.tensor([1, 1])


def test_mean_of_negative_log_probabilities() -> None:
    by_hand = -(math.log(3 / 4) + math.log(1 / 5)) / 2
    assert single_label(LOGITS, LABELS).item() == pytest.approx(by_hand)


def test_divides_by_the_count_of_the_whole_step() -> None:
    by_hand = -(math.log(3 / 4) + math.log(1 / 5)) / 8
    assert single_label(LOGITS, LABELS, torch.tensor(8)).item() == pytest.approx(by_hand)


def test_minus_100_is_not_counted() -> None:
    assert single_label(LOGITS, torch.tensor([1, -100])).item() == pytest.approx(-math.log(3 / 4))


def test_a_class_that_a_row_does_not_have_changes_nothing() -> None:
    padded = torch.nn.functional.pad(LOGITS, (0, 2), value=-torch.inf).requires_grad_()
    loss = single_label(padded, LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(single_label(LOGITS, LABELS).item())
    assert padded.grad.isfinite().all() and (padded.grad[:, 2:] == 0).all()


def test_every_problem_type_has_a_loss() -> None:
    assert tuple(LOSSES) == PROBLEM_TYPES
