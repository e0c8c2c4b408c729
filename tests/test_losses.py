"""Losses against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from hf_reprogram.config import PROBLEM_TYPES
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.losses import IGNORED, LOSSES, NEVER, single_label, transcription


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


class TestTexts:
    """Two frames; blank, a, b: probabilities (1/2, 3/10, 1/5) and (3/5, 1/10, 3/10)."""

    FRAMES = torch.tensor([[[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]]]).log()

    @pytest.mark.parametrize(
        ("text", "probability"),
        [
            ([1], 0.3 * 0.6 + 0.5 * 0.1 + 0.3 * 0.1),  # a-, -a, aa
            ([1, 2], 0.3 * 0.3),  # ab
            ([IGNORED], 0.5 * 0.6),  # nothing is said
        ],
    )
    def test_sum_over_alignments(self, text: list[int], probability: float) -> None:
        found = transcription(self.FRAMES, torch.tensor([text]), 1).item()
        assert found == pytest.approx(-math.log(probability), rel=1e-5)

    def test_divided_by_the_symbols_of_all_rows(self) -> None:
        both = torch.tensor([[1, 2], [1, IGNORED]])
        each = -math.log(0.09) - math.log(0.26)
        assert transcription(self.FRAMES.expand(2, -1, -1), both).item() == pytest.approx(each / 3, rel=1e-5)
        assert transcription(self.FRAMES.expand(2, -1, -1), both, 30).item() == pytest.approx(each / 30, rel=1e-5)

    def test_a_frame_that_is_none_changes_neither_loss_nor_gradient(self) -> None:
        frames, labels = self.FRAMES.clone().requires_grad_(), torch.tensor([[1]])
        none = torch.tensor([0.0, NEVER, NEVER]).expand(1, 3, -1)
        longer = torch.cat([self.FRAMES, none], 1).requires_grad_()
        loss, same = transcription(frames, labels), transcription(longer, labels)
        assert same.item() == pytest.approx(loss.item(), rel=1e-6)
        loss.backward()
        same.backward()
        assert torch.allclose(longer.grad[:, :2], frames.grad, atol=1e-6) and longer.grad.isfinite().all()

    def test_a_text_of_more_symbols_than_frames_is_an_error(self) -> None:
        with pytest.raises(DataError, match="row 0 .* 2 symbols, 1 of them doubled, in 2 frames"):
            transcription(self.FRAMES, torch.tensor([[1, 1]]))
        short = torch.cat([self.FRAMES[:, :1], torch.tensor([[[0.0, NEVER, NEVER]]])], 1)
        with pytest.raises(DataError, match="2 symbols, 0 of them doubled, in 1 frames"):
            transcription(short, torch.tensor([[1, 2]]))

    def test_tokens_of_known_probability(self) -> None:
        tokens, labels = torch.tensor([[0.5, 0.1], [0.2, 0.9]]).log(), torch.tensor([[7, 8], [9, IGNORED]])
        assert transcription(tokens, labels).item() == pytest.approx(-math.log(0.5 * 0.1 * 0.2) / 3)

    @pytest.mark.parametrize("labels", [[[3]], [[0]], [1], [[0.5]]])
    def test_ids_that_are_none(self, labels: list) -> None:
        with pytest.raises(UsageError, match="labels: "):
            transcription(self.FRAMES, torch.tensor(labels))


def test_every_problem_type_has_a_loss() -> None:
    assert tuple(LOSSES) == PROBLEM_TYPES
