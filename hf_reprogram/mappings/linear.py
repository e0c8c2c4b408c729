"""`linear`: a linear map from what the base gives to the target labels: ridge, logistic, or by gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError
from ..registry import option
from .base import EstimatedOptions, Mapping, finite, members, one_token, strongest


@dataclass
class LinearConfig(EstimatedOptions):
    """Options of `linear`. The labels are those of `ReprogramConfig.labels`.

    Example:

        >>> LinearConfig(on="state", pool="mean", solver="ridge").solver
        'ridge'
    """

    type: str = field(default="linear", init=False)
    on: str = option(
        "state",
        "What is mapped: state (a hidden vector), rows (logits of `words`), source (logits of the whole vocabulary), "
        "classes (logits of the base's own classes).",
        choices=("state", "rows", "source", "classes"),
    )
    pool: str = option(
        "answer",
        "Which state: answer slot, mean over text or clip, mean and deviation (statistics), or first position.",
        choices=("answer", "mean", "statistics", "first"),
    )
    layer: int | None = option(
        None, "Of a base that hears: which layer's state; None is the last.", low=-200, high=200
    )
    parts: int = option(
        1,
        "The mean, or mean and deviation, of so many parts of the text, or of time, each for itself.",
        low=1,
        high=1000,
    )
    words: list[str] = option([], "Words whose logits are mapped, where on='rows'.")
    solver: str = option("ridge", "How the map is found.", choices=("ridge", "logistic", "gradient"))
    start: str = option("random", "Where the gradient solver starts.", choices=("random", "ridge", "logistic"))
    rank: int | None = option(
        None, "Of the gradient solver's matrix, trained as a product of two; None trains it whole.", low=1, high=10_000
    )
    inverse_penalty: float = option(0.1, "C of the logistic solver, on standardised features.", low=1e-6, high=1e6)
    ids: list[int] | None = option(None, "Filled in: token ids of `words`.")

    def validate(self) -> None:
        super().validate()
        if (self.on == "rows") != bool(self.words):
            raise ConfigError(
                "LinearConfig.words", f"{self.words!r} with on={self.on!r}", "words where on='rows', and only there"
            )
        if self.parts > 1 and (self.on != "state" or self.pool not in ("mean", "statistics")):
            what = f"{self.parts} with on={self.on!r}, pool={self.pool!r}"
            raise ConfigError("LinearConfig.parts", what, "on='state' and pool='mean' or 'statistics'")
        if self.start != "random" and self.solver != "gradient":
            raise ConfigError("LinearConfig.start", f"{self.start!r} with solver={self.solver!r}", "solver='gradient'")

        if self.rank is not None and self.solver != "gradient":
            raise ConfigError("LinearConfig.rank", f"{self.rank} with solver={self.solver!r}", "solver='gradient'")

    def reads(self) -> tuple[str, ...]:
        return ({"rows": "rows", "source": "rows"}.get(self.on, self.on),)

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels is None:
            raise ConfigError(
                "ReprogramConfig.labels",
                "None",
                "the names of the target labels: the linear mapping has none of its own",
                "labels=[...]; in a recipe, config.labels",
            )
        if self.on == "rows" and (tokenizer is not None or self.ids is None):
            self.ids = [one_token(tokenizer, word, "LinearConfig.words") for word in self.words]
        if len(self.ids or []) != len(self.words):
            raise ConfigError("LinearConfig.ids", f"{self.ids!r}", "one token id for each of the words")


class Linear(Mapping):
    """logits = matrix @ z + bias, where z (batch, K) are label-row logits, source logits, or a hidden state.

    - `ridge` (default): least squares on one-hot labels (on -1 and 1 for several labels to a row, on the numbers
      themselves for regression) in closed form, the penalty chosen by exact leave-one-out error on the grid
      10^j tr(Z'Z) / min(N, K), j = -4 ... 3, Z centred (scikit-learn's RidgeCV, float64); one row per label: j = -1.
    - `logistic`: L2 logistic regression on standardised features; the standardisation is folded into the map.
    - `gradient`: trained with the program, from small random numbers or from the ridge or logistic solution; with
      `rank`, as left @ right, which begin as the nearest product to that solution (its singular values).

    The first two are estimated once, by `fit_mapping(rows)` or at the start of training. Where rows have a label each
    they heed the config's `class_weight`: a row's squared error (left out too) or log-loss, times that of its label.

    Shapes: readout (batch, K); matrix (classes, K), or left (classes, rank) and right (rank, K); logits
    (batch, classes).
    """

    Options = LinearConfig
    learning_rate = 1e-3
    paper = "2202.10629"
    example = {"on": "state", "pool": "mean", "solver": "gradient"}
    tries = (
        *({"pool": pool} for pool in ("mean", "answer", "statistics")),
        *({"pool": "mean", "solver": "logistic", "inverse_penalty": c} for c in (0.003, 0.03, 0.3)),
        {"on": "classes"},
        {"on": "source"},
    )

    def __init__(self, options: LinearConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        if options.ids and (max(options.ids) >= backbone.head.size or min(options.ids) < 0):
            raise ConfigError("LinearConfig.ids", f"{options.ids!r}", f"token ids below {backbone.head.size}")
        if options.layer is not None and backbone.modality == "text":
            raise ConfigError("LinearConfig.layer", f"{options.layer} of a base that reads", "None: its last layer")
        if options.parts > 1 and backbone.modality == "audio" and backbone.lead:
            what = f"{options.parts} of a {type(backbone.base).__name__}, whose states are no moments of a sound"
            raise ConfigError("LinearConfig.parts", what, "1")
        if self._logistic and problem_type != "single_label_classification":
            name, other = ("solver", "gradient") if options.solver == "logistic" else ("start", "random")
            raise ConfigError(f"LinearConfig.{name}", f"'logistic' for {problem_type}", f"'ridge' or {other!r}")
        if options.refit_every is not None and options.solver == "gradient":
            what = f"{options.refit_every} with solver='gradient', which learns all along"
            raise ConfigError("LinearConfig.refit_every", what, "None", "solver='ridge'")
        self.names = backbone.base.config.id2label if options.on == "classes" else {}
        size = {
            "state": lambda: backbone.state_size(options.pool, options.layer, options.parts),
            "rows": lambda: len(options.words),
            "source": lambda: backbone.head.size,
            "classes": lambda: backbone.classes,
        }[options.on]()
        if options.rank is not None and options.rank >= min(len(labels), size):
            what = f"{options.rank} of a matrix of {len(labels)} x {size}"
            raise ConfigError("LinearConfig.rank", what, f"below {min(len(labels), size)}", "None trains it whole")
        matrix, bias = torch.zeros(len(labels), size), torch.zeros(len(labels))
        if options.rank is not None:
            self.left, self.right = (
                nn.Parameter(torch.zeros(shape)) for shape in ((len(labels), options.rank), (options.rank, size))
            )
            self.bias = nn.Parameter(bias)
        elif options.solver == "gradient":
            self.matrix, self.bias = nn.Parameter(matrix), nn.Parameter(bias)
        else:
            self.register_buffer("matrix", matrix)
            self.register_buffer("bias", bias)

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        if self.options.solver == "gradient":
            # Not zero: through a zero matrix no gradient would reach the program.
            for part in (self.matrix,) if self.options.rank is None else (self.left, self.right):
                part.copy_((torch.rand(part.shape, generator=generator) * 2 - 1) * part.shape[1] ** -0.5)

    @property
    def _logistic(self) -> bool:
        """Whether what is estimated is a logistic regression."""
        return "logistic" in (self.options.solver, self.options.start)

    @property
    def estimated(self) -> str:
        return "never" if self.options.solver == "gradient" and self.options.start == "random" else "once"

    @property
    def fit_needs_labels(self) -> bool:
        return True

    @property
    def fit_weighs(self) -> bool:
        return self.problem_type == "single_label_classification"  # else one label's factor moves no other's fit

    def reading(self) -> Reading:
        if self.options.on == "state":
            return Reading("state", pool=self.options.pool, layer=self.options.layer, parts=self.options.parts)
        if self.options.on == "classes":
            return Reading("classes")
        return Reading("rows", ids=tuple(self.options.ids) if self.options.on == "rows" else None)

    def forward(self, readout: Readout) -> Tensor:
        return nn.functional.linear(readout.values.float(), self.whole(), self.bias)

    def whole(self) -> Tensor:
        """(classes, K) the matrix, however it is trained."""
        return self.matrix if self.options.rank is None else self.left @ self.right

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        z, y = finite(values), labels.cpu().numpy()
        if self.problem_type == "single_label_classification":
            member = members(y, self.labels)
            weights = None if self.class_weight is None else self.class_weight.double().cpu().numpy()[y]
            if self._logistic:
                matrix, bias = logistic(z, y, self.options.inverse_penalty, weights)
            else:
                matrix, bias, *_ = ridge(z, member, penalties_of(z, member, weights), weights)
        else:  # labels 0 and 1 become -1 and 1, so that a score above zero means yes
            matrix, bias, *_ = ridge(z, y * 2.0 - 1 if self.problem_type == "multi_label_classification" else y)
        if self.options.rank is None:
            self.matrix.copy_(torch.from_numpy(matrix))
        else:
            u, sizes, v = np.linalg.svd(matrix, full_matrices=False)
            for part, found in ((self.left, u * sizes**0.5), (self.right, (v.T * sizes**0.5).T)):
                part.copy_(torch.from_numpy(found[: part.shape[0], : part.shape[1]]))
        self.bias.copy_(torch.from_numpy(bias))
        self.fitted.fill_(1)

    def explain(self) -> dict[str, Any]:
        norms, found = self.whole().detach().norm(dim=1).tolist(), self.weights()
        return {
            "reads": self.options.on,
            "solver": self.options.solver,
            "norm of each label's row": dict(zip(self.labels, norms, strict=True)),
            **({"source labels": strongest(self.labels, *found)} if found else {}),
        }

    def label_rows(self) -> Tensor | None:
        return self.whole().detach() if self.options.on == "state" else None

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        if self.options.on == "state":
            return None
        matrix = self.whole().detach()
        if self.options.on == "rows":
            return list(self.options.words), matrix
        return [self.names.get(k, k) for k in range(matrix.shape[1])], matrix


def ridge(
    z: np.ndarray, target: np.ndarray, penalties: list[float] | None = None, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Ridge regression with the penalty of the least leave-one-out error; the bias is not penalised.

    Args:
        z: (rows, K) float64 features.  target: (rows, outputs) numbers; one-hot labels for classes.
        penalties: the grid; None is 10^j tr(Z'Z) / min(rows, K), j = -4 ... 3, Z centred.
        weights: (rows,) factors of the rows' squared errors, in Z'Z too; None is 1 for each.

    Returns:
        matrix (outputs, K), bias (outputs,), the penalty, its leave-one-out mean of (weighted) squared errors.
    """
    from sklearn.linear_model import RidgeCV

    if penalties is None:  # with two rows or fewer, leaving one out leaves nothing to fit
        scale = _scale(z, weights)
        penalties = [fixed_penalty(z, weights)] if len(z) <= 2 else [10.0**j * scale for j in range(-4, 4)]
    found = RidgeCV(alphas=penalties).fit(z, target, sample_weight=weights)
    return np.atleast_2d(found.coef_), np.atleast_1d(found.intercept_), float(found.alpha_), -float(found.best_score_)


def left_out(z: np.ndarray, target: np.ndarray, penalties: list[float] | None = None) -> np.ndarray:
    """(rows, outputs) what the ridge map of all other rows says of each row, at `ridge`'s own penalty.

    Args:
        z, target, penalties: as of `ridge`; at least three rows.
    """
    from sklearn.linear_model import RidgeCV

    grid = [10.0**j * _scale(z) for j in range(-4, 4)] if penalties is None else penalties
    # With a scoring function scikit-learn keeps the predictions instead of their errors.
    found = RidgeCV(alphas=grid, scoring="neg_mean_squared_error", store_cv_results=True).fit(z, target)
    return found.cv_results_[..., grid.index(found.alpha_)]


def _scale(z: np.ndarray, weights: np.ndarray | None = None) -> float:
    square = np.square(z - np.average(z, axis=0, weights=weights))
    return max(float((square if weights is None else square * weights[:, None]).sum()) / min(z.shape), 1e-12)


def fixed_penalty(z: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The penalty where leaving one out tells nothing: tr(Z'Z) / (10 min(N, K)), Z centred."""
    return 0.1 * _scale(z, weights)


def penalties_of(z: np.ndarray, member: np.ndarray, weights: np.ndarray | None = None) -> list[float] | None:
    """The grid for rows of one label each, `member` (rows, labels), and of weights (rows,).

    Where no label has two rows, the one left out is of a label unseen: the best guess is the mean, and the largest
    penalty would win.
    """
    return None if member.sum(0).max() > 1 else [fixed_penalty(z, weights)]


def logistic(
    z: np.ndarray, y: np.ndarray, inverse_penalty: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """L2 logistic regression on standardised features, as a map of the raw ones: (classes, K) and (classes,).

    `weights` (rows,) are factors of the rows' log-losses.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = z.mean(0), z.std(0)
    # A dead feature's rounding errors are no signal, and would make its weight enormous.
    spread = np.where(spread > max(1e-6 * np.median(spread), 1e-12), spread, 1.0)
    found = LogisticRegression(C=inverse_penalty, max_iter=2000).fit((z - mean) / spread, y, weights)
    coef, intercept = found.coef_, found.intercept_
    if len(coef) == 1:  # two classes come as one row: the log odds of the second
        coef, intercept = np.concatenate([-coef / 2, coef / 2]), np.concatenate([-intercept / 2, intercept / 2])
    matrix = coef / spread
    return matrix, intercept - matrix @ mean
