"""How far the rows of a task agree on where a program should go: gradients and the neural tangent kernel.

Everything here is at the program as it is, so before training. A loss of large size makes large gradients; the ratios
below do not see that (2108.11673 bounds what a small program can gain by the norm of the mean gradient, which does).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.rows import as_rows
from ..errors import UsageError
from ..passes import asleep


def gradients(model: Any, rows: Any, progress: bool | None = None) -> np.ndarray:
    """(rows, numbers) gradient of each row's loss by the active program's trained numbers, one backward a row.

    Raises:
        UsageError: a program that does not train.
    """
    return derivatives(model, rows, progress=progress)[0]


def derivatives(
    model: Any, rows: Any, contrasts: np.ndarray | None = None, progress: bool | None = None
) -> np.ndarray:
    """`gradients`, and beside them the gradients of each row's scores, weighed by each contrast.

    Args:
        contrasts: (contrasts, labels) weights of the scores. With orthonormal ones that sum to 0 the kernels J J' of
            their gradients J add up to the tangent kernel of all scores, less what moves all of them alike.

    Returns:
        (1 + contrasts, rows, numbers); of one pass over the rows.

    Raises:
        UsageError: a program that does not train.
    """
    from tqdm.auto import tqdm

    parameters = [p for part in model.active_programs() for p in part.parameters() if p.requires_grad]
    if not parameters:
        what = f"{model.active_name()!r} has no program that trains"
        raise UsageError("gradients", what, "one with trained numbers", "load it with is_trainable=True")
    device = model.backbone.device
    weights = torch.zeros(0, len(model.label_names())) if contrasts is None else torch.from_numpy(contrasts).float()
    collator, made = model.collator(), []
    with asleep(model), torch.enable_grad():
        for row in tqdm(as_rows(rows, model.text_column()), desc="gradients", leave=False, delay=2,
                        disable=progress is False):  # fmt: skip
            found = model(**{k: v.to(device) for k, v in collator([row]).items()})
            outputs = [found.loss, *(weights.to(device) @ found.logits[0].float())]
            each = [torch.autograd.grad(o, parameters, retain_graph=True, allow_unused=True) for o in outputs]
            made.append([_flat(parameters, g) for g in each])
    return np.array(made).transpose(1, 0, 2)


def _flat(parameters: list[Tensor], gradients: tuple[Tensor | None, ...]) -> np.ndarray:
    """(numbers,) float64."""
    each = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.cat([g.flatten().double().cpu() for g in each]).numpy()


def agreement(found: np.ndarray) -> float:
    """|mean of g_i| / mean of |g_i| of gradients (rows, numbers), 0 to 1: 1 where all rows pull one way (2108.11673).

    Example:

        >>> round(agreement(np.array([[1.0, 0.0], [0.0, 1.0]])), 5), agreement(np.array([[1.0, 0.0], [-1.0, 0.0]]))
        (0.70711, 0.0)
    """
    sizes = np.linalg.norm(found, axis=1).mean()
    return float(np.linalg.norm(found.mean(0)) / sizes) if sizes > 0 else 0.0


def kernel_alignment(jacobian: np.ndarray, y: np.ndarray) -> float:
    """y'Ty / (|T| |y|^2) with T = J J' the tangent kernel of J (outputs, numbers) and |T| its Frobenius norm.

    1 where the kernel has one direction and the targets y (outputs,) lie in it (2506.00620 looks at its spectrum).
    """
    kernel = jacobian @ jacobian.T
    size = np.linalg.norm(kernel) * float(y @ y)
    return float(y @ kernel @ y / size) if size > 0 else 0.0
