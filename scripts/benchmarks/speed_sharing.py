#!/usr/bin/env python3
"""What is saved where slots come first or last: on SmolLM2-135M, beside the texts alone and beside the bare loop.

    python scripts/benchmarks/speed_sharing.py            # a few minutes; writes results/speed_sharing.{json,md}
    python scripts/benchmarks/speed_sharing.py --quick    # 4 layers, 2 rounds; into results/scratch/

Serving: 20 slots before every text, four batches as one call of predict, against the texts without any slot. Training:
8 slots behind every text, a step of the second epoch, against the bare loop on the slots over the texts' own keys and
values. Both also against the same work with nothing shared. Rounds and ratios are those of speed.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from benchmarks.floor import Work, interleaved, spread
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.speed import SEED, Columns, Models, Shape, paired, score, trainer_of
from torch import Tensor
from transformers import DynamicCache

import hf_reprogram as hr
from hf_reprogram.passes import asleep


BATCHES, SERVED, TRAINED = 4, Shape(8, 32), Shape(8, 32)  # positions of texts
FIRST, LAST = "{prompt:20} {text} It was{answer}", "{text} It was {prompt:8}{answer}"
ABOUT = (
    "Slots before the text are the same for all rows, and a text before the slots is the same in every epoch: both go "
    "through a frozen causal body once. SmolLM2-135M in float32. Ratios are of CPU times of one thread, paired within "
    "a round: median, lowest and highest of n rounds."
)


class Case:
    """A prompt by a template, and rows whose text alone has some length.

    Args:
        models: the base.
        template: where the slots stand.
        shape: rows of a batch, and positions of their texts with the template's words.
        batches: how many.
    """

    def __init__(self, models: Models, template: str, shape: Shape, batches: int) -> None:
        words = {"negative": [" bad"], "positive": [" good"]}
        config = hr.ReprogramConfig(
            program=hr.PromptConfig(template=template), mapping=hr.VerbalizerConfig(words=words)
        )
        self.base = models.base
        self.model = hr.get_reprogram_model(models.twin(), config, models.tokenizer, seed=SEED)
        slots = template.count("{prompt:20}") * 20 + template.count("{prompt:8}") * 8
        # Rows are chosen by a template with 10 slots and 2 words, of which as many positions as here are words.
        rows = models.rows_near(Shape(shape.rows * batches, shape.positions + 10))
        collator = self.model.collator(features=["negative", "positive"])
        self.parts = [collator(rows[i::batches]) for i in range(batches)]
        self.slots = slots
        self.label_rows = self.base.lm_head.weight[list(self.model.active_mapping().ids)].clone()

    def embeds(self, columns: Columns) -> Tensor:
        """What goes into the body, slots included."""
        batch = self.model.reprogrammed.batch(**{k: v for k, v in columns.items() if k != "labels"})
        with torch.no_grad():
            return self.model.reprogrammed.program(batch, self.model.backbone).embeds

    @contextmanager
    def nothing_shared(self) -> Iterator[None]:
        """A time in which every row is computed whole."""
        backbone = self.model.backbone
        sharing, backbone.sharing = backbone.sharing, None
        try:
            yield
        finally:
            backbone.sharing = sharing


def serving(models: Models, rounds: int) -> Iterator[Row]:
    """Slots first: predict on four batches."""
    case = Case(models, FIRST, SERVED, BATCHES)
    texts = [case.embeds(part)[:, case.slots :] for part in case.parts]
    answers = [part["answer_index"] - case.slots for part in case.parts]

    @torch.no_grad()
    def text_only() -> None:
        for embeds, at in zip(texts, answers, strict=True):
            hidden = case.base.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            F.linear(hidden[torch.arange(len(at)), at], case.label_rows)

    def ours() -> None:
        with asleep(case.model):
            for part in case.parts:
                score(case.model, part)

    def whole() -> None:
        with case.nothing_shared():
            ours()

    taken = interleaved({"text_only": text_only, "ours": ours, "whole": whole}, rounds)
    task = f"serving, 20 slots first, {BATCHES} batches of {_sizes(texts)}"
    yield paired(task, "ours", "shared_prefix_ratio_to_text_only", taken["ours"], taken["text_only"])
    yield paired(task, "ours", "shared_prefix_ratio_to_whole", taken["ours"], taken["whole"])
    yield Row(task, "ours", "cpu_seconds", *spread([run.cpu for run in taken["ours"]]))


def training(models: Models, rounds: int) -> Iterator[Row]:
    """Slots last: a step of the second epoch."""
    case = Case(models, LAST, TRAINED, 1)
    (columns,) = case.parts
    step = trainer_of(case.model.train(), lambda: case.model(**columns).loss)

    def whole() -> None:
        with case.nothing_shared():
            step()

    taken = interleaved({"floor": bare_suffix(case, columns), "ours": step, "whole": whole}, rounds)
    task = f"training, 8 slots last, {_sizes([columns['input_ids']])}"
    yield paired(task, "ours", "suffix_step_ratio_to_floor", taken["ours"], taken["floor"])
    yield paired(task, "ours", "suffix_step_ratio_to_whole", taken["ours"], taken["whole"])
    yield Row(task, "ours", "cpu_seconds", *spread([run.cpu for run in taken["ours"]]))


def bare_suffix(case: Case, columns: Columns) -> Work:
    """A bare step on the slots alone: the texts' keys and values lie ready, padded to one length."""
    body, embeds = case.base.model, case.embeds(columns)
    before = (columns["slot_index"] >= 0).int().argmax(1)  # (batch,) length of each text
    longest, rows = int(before.max()), torch.arange(len(before))
    with torch.no_grad():
        made = body(inputs_embeds=embeds[:, :longest], use_cache=True).past_key_values
    at = before[:, None] + torch.arange(case.slots)  # (batch, slots)
    slots = embeds[rows[:, None], at].clone().requires_grad_()
    mask = torch.cat([torch.arange(longest) < before[:, None], torch.ones_like(at, dtype=torch.bool)], 1).long()

    def floor() -> Any:
        cache = DynamicCache()
        for i, layer in enumerate(made.layers):
            cache.update(layer.keys, layer.values, i)
        hidden = body(
            inputs_embeds=slots, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True
        ).last_hidden_state
        loss = F.cross_entropy(F.linear(hidden[:, -1], case.label_rows), columns["labels"])
        return torch.autograd.grad(loss, slots)[0]

    return floor


def _sizes(parts: Sequence[Tensor]) -> str:
    return f"{len(parts[0])} rows x {max(part.shape[1] for part in parts)} positions"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the numbers decide nothing about the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 layers, 2 rounds (a trial, no evidence)")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    given = parser.parse_args(arguments)
    layers, rounds = (4, 2) if given.quick else (None, 9)

    torch.set_num_threads(1)
    models = Models(layers)
    settings = {"base": "smollm2-135m", "layers": layers or 30, "rounds": rounds, "threads": 1}
    folder = SCRATCH if given.quick else RESULTS
    report = Report("speed_sharing", ABOUT, settings, [SEED], folder, fresh=given.fresh)
    report.cell("serving", lambda: serving(models, rounds))
    report.cell("training", lambda: training(models, rounds))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
