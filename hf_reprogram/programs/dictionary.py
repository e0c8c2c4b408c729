"""`dictionary`: each symbol of a language that the base never read is a combination of source embeddings (R2DL)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError
from ..registry import option
from ._pursuit import Atoms, WeightedAll, WeightedFew, gradient_of_few, pursue
from ._steps import Steps
from ._symbols import SymbolOptions, placed
from .base import Program


MOST = 2**27  # numbers of a form: half a gigabyte, and four times that with gradient and Adam's two moments
WEAK = 0.1  # of the weight of a symbol's strongest atom: one that weighs less makes room
POOR = 0.5  # of a symbol's length left over by its atoms: they say little of it


@dataclass
class DictionaryConfig(SymbolOptions):
    """Options of `dictionary`.

    Example:

        >>> DictionaryConfig(symbols="ACGT", template="{text}{answer}", atoms=4).form
        'sparse'
    """

    type: str = field(default="dictionary", init=False)
    form: str = option(
        "sparse",
        "What a symbol is: a weighted sum of few source tokens (sparse), of all (dense), of all in a few directions "
        "(low_rank), or a vector of its own (free).",
        choices=("sparse", "dense", "low_rank", "free"),
    )
    atoms: int = option(
        10, "Sparse: source tokens in a symbol. Of the other forms, how many explain() names.", low=1, high=1024
    )
    refit_every: int = option(
        100,
        "Sparse: steps of the optimiser from one look at the gradient, which gives the places of tokens without "
        "weight to others, to the next; 0 keeps those of the start.",
        low=0,
        high=10**6,
    )
    rank: int = option(8, "Low rank: directions.", low=1, high=4096)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        """Raise where the form does not suit the base's table."""
        count, tokens, width = len(self.symbols), backbone.vocab_size, backbone.width
        if self.atoms > tokens:
            what = f"{self.atoms} of {tokens} source tokens"
            raise ConfigError("DictionaryConfig.atoms", what, f"at most {tokens}")
        if self.atoms >= width:
            what = f"{self.atoms} for embeddings of width {width}: any vector is a sum of so many"
            raise ConfigError("DictionaryConfig.atoms", what, f"less than {width}", "form='free' is that vector")
        if self.form == "low_rank" and self.rank >= min(count, width):
            what = f"{self.rank} for {count} symbols of width {width}"
            fix = "form='dense' or 'free'"
            raise ConfigError("DictionaryConfig.rank", what, f"less than {min(count, width)}", fix)
        sizes = {
            "sparse": count * self.atoms,
            "dense": count * tokens,
            "low_rank": self.rank * (count + tokens),
            "free": count * width,
        }
        if sizes[self.form] > MOST:
            small = self.form == "dense"
            raise ConfigError(
                "DictionaryConfig.form",
                f"{self.form!r} of {count:,} symbols on {tokens:,} source tokens is {_size(sizes[self.form])}, "
                "and four times that in training",
                f"at most {_size(MOST)}",
                f"form='low_rank': {_size(sizes['low_rank'])}"
                if small
                else f"form='sparse': {_size(sizes['sparse'])}",
            )


def _size(numbers: int) -> str:
    return f"{numbers:,} numbers, {4e-6 * numbers:,.1f} MB"


class Dictionary(Program):
    """A symbol s stands in its places as v_s = sum_i theta_si a_i, where a_i are the base's embeddings, each scaled to
    the root mean square of the whole table. At the start each is the embedding of one token: its own, where the
    tokenizer knows the symbol as one, else a random one; so nothing is left over by the approximation.

    Parameters and buffers, float32 unless said; numbers of `table` are multiples of the base's embedding RMS:
    - `sparse`: `coefficients` (symbols, atoms), less `dropped` of the same shape, weigh the tokens `support` (symbols,
      atoms; int64). The paper takes a gradient step on the free vectors and approximates them anew by k-SVD, which at
      few atoms undoes most of the step (T§2); here the weights themselves train. In every `refit_every`-th step of the
      optimiser (`passes`, int64, counts them) the gradient of the vectors is pursued by orthogonal matching pursuit:
      tokens weighing less than a tenth of a symbol's strongest one give their places to those that the gradient asks
      for most, with weight 0. Of accumulated passes it is the sum that asks, as if they were one.
    - `dense`: theta = one token's (`start`, int64, and its size) + sqrt(width) / vocabulary * `theta` (symbols,
      vocabulary).
    - `low_rank`: the same with theta = `left` (symbols, rank) @ `right` (rank, vocabulary).
    - `free`: `table` (symbols, width), as which all forms fold.

    The factor makes a step of Adam move a vector as far as one on `table` does. The base's table is only read.

    Papers: R2DL, 2012.03460 and 2301.02120. Its released code cannot be run, so none could be compared with.
    """

    Options = DictionaryConfig
    accepts = gives = "embeds"
    learning_rate = 0.05
    paper = "2012.03460, 2301.02120"
    example = {"symbols": ascii_lowercase, "template": "{text} it was{answer}", "atoms": 3, "refit_every": 1}

    def __init__(self, options: DictionaryConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        count, tokens, width = len(options.symbols), backbone.vocab_size, backbone.width
        self.factor = width**0.5 / tokens
        if options.form == "free":
            self.table = nn.Parameter(torch.zeros(count, width))
        elif options.form == "sparse":
            self.coefficients = nn.Parameter(torch.zeros(count, options.atoms))
            self.register_buffer("dropped", torch.zeros(count, options.atoms))
            self.register_buffer("support", torch.zeros(count, options.atoms, dtype=torch.long))
            self.register_buffer("passes", torch.zeros(1, dtype=torch.long))
            # Of the present step: whether it is due, the gradient of the vectors so far, what they lost by it so far.
            self._steps, self._due, self._sum, self._lost = Steps(), False, None, 0.0
        else:
            self.register_buffer("start", torch.zeros(count, dtype=torch.long))
            if options.form == "dense":
                self.theta = nn.Parameter(torch.zeros(count, tokens))
            else:
                self.left = nn.Parameter(torch.zeros(count, options.rank))
                self.right = nn.Parameter(torch.zeros(options.rank, tokens))

    def units(self, backbone: Any) -> Tensor:
        """(symbols, width) in multiples of the base's embedding RMS, whatever is trained."""
        if self.options.form == "free":
            return self.table
        atoms = Atoms(backbone)
        if self.options.form == "sparse":
            learns = self.training and torch.is_grad_enabled() and self.options.refit_every > 0
            told = (lambda gradient: self._told(gradient, atoms)) if learns else None
            made = WeightedFew.apply(self.coefficients - self.dropped, self.support, atoms, told)
            return made + self._lost if learns and self._due and self._lasts() else made
        change = self.theta if self.options.form == "dense" else self.right
        change = WeightedAll.apply(change, atoms) * self.factor  # (symbols or rank, width)
        if self.options.form == "low_rank":
            change = self.left @ change
        return atoms.raw(self.start) / self.scale + change

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        with torch.autocast(batch.embeds.device.type, enabled=False):
            return placed(self.units(backbone) * self.scale, batch)

    @torch.no_grad()
    def _told(self, gradient: Tensor, atoms: Atoms) -> Tensor:
        """Gradient of the weights (symbols, atoms) for that of the vectors (symbols, width) of a training pass; in a
        step that is due it finds tokens first.

        Passes before it in the same step gave theirs for tokens that may have gone: what is added here makes the sum
        of all that of the tokens which are there now, by the sum of the vectors' gradients. And all read the vectors
        as they were when the step began.
        """
        if not self._lasts():
            self._due, self._sum, self._lost = int(self.passes) % self.options.refit_every == 0, None, 0.0
            self.passes += 1
            self._steps.begin([self.coefficients])
        if not self._due:
            return gradient_of_few(gradient, self.support, atoms)
        before = 0.0 if self._sum is None else gradient_of_few(self._sum, self.support, atoms)
        self._sum = gradient.clone() if self._sum is None else self._sum + gradient
        self._find(self._sum, atoms)
        return gradient_of_few(self._sum, self.support, atoms) - before

    def _lasts(self) -> bool:
        """Whether a pass goes on with a step of the optimiser. One whose gradient was cleared, as one that overflowed
        is, was given up."""
        held = self.coefficients.grad
        lasts = self._steps.lasts([self.coefficients]) and held is not None
        return lasts and bool(_over_ranks(held.abs().sum()) != 0)

    def _find(self, gradient: Tensor, atoms: Atoms) -> None:
        """Give places of tokens without weight to what a gradient (symbols, width) asks for."""
        gradient = _over_ranks(gradient)
        weights = (self.coefficients - self.dropped).abs()
        weak = weights < WEAK * weights.amax(1, keepdim=True)
        # A symbol that stands in no row of the step has no gradient; one that overflowed tells nothing.
        weak &= gradient.isfinite().all(1, keepdim=True) & gradient.any(1, keepdim=True)
        rows = weak.any(1).nonzero().squeeze(1)
        if len(rows):
            few = (self.coefficients - self.dropped).where(weak, 0.0)
            self._lost = self._lost + WeightedFew.apply(few, self.support, atoms, None)
            ids, *_ = pursue(-gradient[rows].float(), atoms, self.support[rows], weak[rows])
            self.support[rows] = ids
            self.dropped.copy_(self.coefficients.where(weak, self.dropped))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        usual = _usual(backbone, tokenizer)
        start = self._tokens(usual, generator, tokenizer, backbone.vocab_size)
        atoms = Atoms(backbone)
        if self.options.form == "free":
            self.table.copy_(atoms.raw(start) / self.scale)
        elif self.options.form == "sparse":
            k = self.options.atoms
            pool = usual if len(usual) > k else torch.arange(backbone.vocab_size)
            for i, first in enumerate(start.tolist()):
                others = pool[torch.randperm(len(pool), generator=generator)]
                self.support[i] = torch.cat([start[i : i + 1], others[others != first]])[:k]
            self.coefficients[:, 0] = (atoms.sizes(start) / self.scale).to(self.coefficients)
        else:
            self.start.copy_(start)
        if self.options.form == "low_rank":  # `left` is 0: the first step is its own
            noise = torch.randn(self.right.shape, generator=generator)
            self.right.copy_(noise * (backbone.vocab_size / backbone.width) ** 0.5)

    def _tokens(self, usual: Tensor, generator: torch.Generator, tokenizer: Any, tokens: int) -> Tensor:
        """(symbols,) ids of the tokens from which they start, on the CPU."""
        own: dict[int, int] = {}  # token -> symbol; where two symbols are one token, the first has it
        for i, name in enumerate(self.options.symbols if tokenizer is not None else ()):
            ids = tokenizer(name, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] < tokens and ids[0] not in tokenizer.all_special_ids:
                own.setdefault(ids[0], i)
        others = usual[torch.randperm(len(usual), generator=generator)].tolist()
        others = [i for i in others if i not in own] or others  # each once; from the front again where there are few
        drawn = iter(range(len(self.options.symbols)))
        token = {symbol: token for token, symbol in own.items()}
        return torch.tensor(
            [token.get(i, others[next(drawn) % len(others)]) for i in range(len(self.options.symbols))]
        )

    @torch.no_grad()
    def fold(self, backbone: Any) -> tuple[DictionaryConfig, dict[str, Tensor]]:
        defaults = {f.name: f.default for f in dataclasses.fields(DictionaryConfig)}
        names = ("refit_every", "rank")
        plain = dataclasses.replace(self.options, form="free", **{name: defaults[name] for name in names})
        return plain, {"table": self.units(backbone).detach().clone()}

    @torch.no_grad()
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        """Per symbol: source tokens, the largest share first, how often each embedding is taken, and what they leave
        over, relative to the symbol's length. `poor` is true where that is more than half of it.

        Of a sparse dictionary that is the symbol itself, and nothing is left over; of the others the nearest sum of
        `atoms` embeddings that a pursuit finds.
        """
        atoms, units = Atoms(backbone), self.units(backbone)
        if self.options.form == "sparse":
            ids, weights, rest = self.support, self.coefficients - self.dropped, units.new_zeros(len(units))
        else:
            empty = torch.zeros(len(units), self.options.atoms, dtype=torch.long, device=units.device)
            ids, weights, rest = pursue(units, atoms, empty, torch.ones_like(empty, dtype=torch.bool))
        order = weights.abs().argsort(1, descending=True)
        ids, weights = ids.gather(1, order), weights.gather(1, order)
        taken = weights * self.scale / atoms.sizes(ids).clamp(min=1e-30)
        found = zip(self.options.symbols, ids.tolist(), taken.tolist(), rest.tolist(), strict=True)
        rows = []
        for name, tokens, shares, left in found:
            kept = [i for i, share in enumerate(shares) if share != 0]
            rows.append(
                {
                    "symbol": name,
                    "ids": {"tokens": [tokens[i] for i in kept]},
                    "coefficients": [round(shares[i], 4) for i in kept],
                    "residual": left,
                    "poor": left > POOR,
                }
            )
        return rows


def _over_ranks(numbers: Tensor) -> Tensor:
    """The sum over all ranks, which must come to the same tokens."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        numbers = numbers.clone()
        torch.distributed.all_reduce(numbers)
    return numbers


def _usual(backbone: Any, tokenizer: Any) -> Tensor:
    """Ids of tokens that the base has seen often: no special ones, none of unusual size. On the CPU."""
    atoms = Atoms(backbone)
    sizes = torch.cat([atoms.sizes(ids) for ids in atoms.slices()]).cpu()
    low, high = sizes.quantile(torch.tensor([0.05, 0.95]))
    usual = (sizes >= low) & (sizes <= high) & (sizes > 0)
    special = [] if tokenizer is None else [i for i in tokenizer.all_special_ids if i < len(sizes)]
    usual[special] = False
    found = usual.nonzero().squeeze(1)
    return found if len(found) else torch.arange(len(sizes))
