"""How language.py teaches: every method by one loop that begins at the probe, its best epoch counts.

What learns stands in front of a frozen encoder (our programs, PEFT's virtual tokens) or inside it (LoRA), and a linear
map of the mean of the last states learns with it. Whatever is chosen is chosen on validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.baselines import Row, in_slices
from benchmarks.peft_baselines import Prefixed, virtual_tokens
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import PreTrainedModel

import hf_reprogram as hr
from hf_reprogram.mappings.linear import logistic
from hf_reprogram.training.sampling import LengthBuckets


PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # C of a logistic regression on standardised states
BATCH, JUDGED = 16, 64  # rows per step; rows per pass where nothing learns
CLIP = 1.0
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Data:
    """The rows of one task under one seed."""

    labels: list[str]
    train: list[Row]
    validation: list[Row]
    test: list[Row]

    def ids(self, part: str) -> Tensor:
        """Label ids of a part."""
        return torch.tensor([self.labels.index(row["label"]) for row in getattr(self, part)])


@dataclass(frozen=True)
class Found:
    """What a method says, and how it was come by.

    Args:
        validation, test: (rows, classes) log-probabilities.
        note: what was chosen.
    """

    validation: Tensor
    test: Tensor
    note: str = ""


@dataclass(frozen=True)
class Start:
    """Where every linear map begins: the logistic regression of the untaught model.

    Args:
        states: (rows, dim) of the training rows.
        penalty: its C.
    """

    states: Tensor
    penalty: float


def merit(scores: Tensor, ids: Tensor) -> tuple[float, float]:
    """What is chosen by: accuracy, and where that is level the smaller loss."""
    return (scores.argmax(1) == ids).float().mean().item(), -nn.functional.cross_entropy(scores, ids).item()


def percent(scores: Tensor, ids: Tensor) -> str:
    """Accuracy as it stands in notes."""
    return f"{100 * merit(scores, ids)[0]:.1f}"


# Who learns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learner:
    """Something that learns beside a linear map of ours.

    Args:
        module: gives loss and logits of columns as our collator makes them.
        states: columns -> (rows, dim), what the map reads.
        model: ours: lays rows out, holds the map.
        rates: learning rate of each group of parameters, the map's last.
    """

    module: nn.Module
    states: Callable[[Mapping[str, Any]], Tensor]
    model: hr.ReprogramModel
    rates: list[tuple[list[nn.Parameter], float]]

    @property
    def numbers(self) -> int:
        """How many numbers learn."""
        return sum(p.numel() for group, _ in self.rates for p in group)


def reprogrammed(
    base: PreTrainedModel, tokenizer: Any, labels: Sequence[str], program: Any, penalty: float, seed: int
) -> hr.ReprogramModel:
    """The frozen encoder under a program; a linear map that begins as a logistic regression, once it is fitted."""
    mapping = hr.LinearConfig(on="state", pool="mean", solver="gradient", start="logistic", inverse_penalty=penalty)
    config = hr.ReprogramConfig(program=program, mapping=mapping, labels=list(labels))
    return hr.get_reprogram_model(base, config, processing_class=tokenizer, seed=seed)


def reader(model: hr.ReprogramModel, groups: list[tuple[list[nn.Parameter], float]]) -> Learner:
    """A model of ours as a learner."""
    reading = model.active_mapping().reading()
    return Learner(model, lambda columns: model.reprogrammed.readout(columns, reading), model, groups)


def ours(model: hr.ReprogramModel, factor: float) -> Learner:
    """Programs at `factor` times their own rates."""
    rates = model.learning_rates()
    groups = [
        (list(part.parameters()), factor * rates[f"program.{i}"]) for i, part in enumerate(model.active_programs())
    ]
    return reader(model, [*groups, (list(model.active_mapping().parameters()), rates["mapping"])])


def peft_prompt(
    base: PreTrainedModel, tokenizer: Any, model: hr.ReprogramModel, slots: int, text: str, rate: float
) -> Learner:
    """PEFT's prompt tuning: virtual tokens in front of every row of `model`, which has no program of its own."""
    prefixed = Prefixed(model, virtual_tokens(base, tokenizer, slots, text, "FEATURE_EXTRACTION"))
    learned = [p for p in prefixed.prompt.parameters() if p.requires_grad]
    groups = [(learned, rate), (list(model.active_mapping().parameters()), model.learning_rates()["mapping"])]
    return Learner(prefixed, lambda columns: prefixed.read(**columns).values, model, groups)


def lora(model: hr.ReprogramModel, rate: float, rank: int, seed: int) -> Learner:
    """LoRA on queries and values of the encoder of `model`, which is the caller's to throw away."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["query", "value"])
    inject_adapter_in_model(config, model.backbone.base)
    learned = [p for p in model.backbone.base.parameters() if p.requires_grad]
    return reader(
        model, [(learned, rate), (list(model.active_mapping().parameters()), model.learning_rates()["mapping"])]
    )


# How it learns -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def states(learner: Learner, rows: Sequence[Row]) -> Tensor:
    """What the map reads of rows, (rows, dim) in float32."""
    collator = learner.model.collator()

    def read(part: list[Row]) -> Tensor:
        return learner.states(collator.stack(collator.lay_out(part, labelled=False))).float()

    return in_slices(rows, read, size=JUDGED)


@torch.no_grad()
def mapped(learner: Learner, values: Tensor) -> Tensor:
    """Log-probabilities of states by the learner's map."""
    return learner.model.active_mapping()(hr.Readout(values, kind="state")).log_softmax(1)


def fitted(data: Data, train: Tensor, validation: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
    """(C, (matrix, bias)) of the logistic regression on states that is best on the validation rows."""
    z, y, best = train.double().numpy(), data.ids("train").numpy(), None
    for penalty in PENALTIES:
        weights = tuple(torch.from_numpy(w).float() for w in logistic(z, y, penalty))
        found = merit(nn.functional.linear(validation, *weights), data.ids("validation"))
        if best is None or found > best[0]:
            best = (found, penalty, weights)
    return best[1], best[2]


def learn(learner: Learner, data: Data, epochs: int, seed: int) -> tuple[int, tuple[float, float]]:
    """Train, and leave the parameters of the epoch that is best on the validation rows; its number and merit."""
    collator = learner.model.collator()
    made = collator.lay_out(data.train)
    groups = [{"params": group, "lr": rate} for group, rate in learner.rates]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    steps = epochs * math.ceil(len(made) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    parameters = [p for group, _ in learner.rates for p in group]
    best = None
    for epoch in range(epochs):
        order = list(LengthBuckets([len(row) for row in made], BATCH, seed, epoch=lambda e=epoch: e))
        for start in range(0, len(order), BATCH):
            loss = learner.module(**collator.stack([made[i] for i in order[start : start + BATCH]])).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            schedule.step()
        found = merit(mapped(learner, states(learner, data.validation)), data.ids("validation"))
        if best is None or found > best[0]:
            best = (found, epoch + 1, [p.detach().clone() for p in parameters])
    with torch.no_grad():
        for parameter, kept in zip(parameters, best[2], strict=True):
            parameter.copy_(kept)
    return best[1], best[0]


def probe(model: hr.ReprogramModel, data: Data) -> tuple[Start, Found]:
    """Logistic regression on the states of a model without a program."""
    learner = reader(model, [])
    read = {part: states(learner, getattr(data, part)) for part in PARTS}
    penalty, weights = fitted(data, read["train"], read["validation"])
    said = [nn.functional.linear(read[part], *weights).log_softmax(1) for part in PARTS[1:]]
    return Start(read["train"], penalty), Found(*said, f"C {penalty:g}")


def taught(
    learners: Mapping[float, Callable[[], Learner]], start: Start, data: Data, epochs: int, seed: int
) -> tuple[float, Found]:
    """(rate, what it says) of the best of some rates: trained from the probe on, the map then kept or fitted again.

    Args:
        learners: by rate, what makes one afresh.
        start: of its map.
        data: of the task.
        epochs, seed: of training.
    """
    best, notes = None, []
    for rate, make in learners.items():
        learner = make()
        learner.model.active_mapping().fit(start.states, data.ids("train"))
        epoch, found = learn(learner, data, epochs, seed)
        notes.append(f"{100 * found[0]:.1f} at {rate:g}, epoch {epoch}")
        if best is None or found > best[0]:
            best = (found, rate, learner)
    _, rate, learner = best
    read = {part: states(learner, getattr(data, part)) for part in PARTS}
    penalty, weights = fitted(data, read["train"], read["validation"])
    ways = {
        "trained": lambda z: mapped(learner, z),
        f"fitted again, C {penalty:g}": lambda z: nn.functional.linear(z, *weights).log_softmax(1),
    }
    ids = data.ids("validation")
    way = max(ways, key=lambda name: merit(ways[name](read["validation"]), ids))
    note = f"{learner.numbers} numbers, rate {rate:g}, map {way}; validation: {'; '.join(notes)}"
    return rate, Found(ways[way](read["validation"]), ways[way](read["test"]), note)
