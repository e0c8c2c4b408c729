#!/usr/bin/env python3
"""What a training step, a scoring pass, loading and switching cost: ours and PEFT's beside a bare loop.

    python scripts/benchmarks/speed.py            # whole SmolLM2-135M; a few minutes; writes results/speed.{json,md}
    python scripts/benchmarks/speed.py --quick    # 4 layers, 2 rounds; into results/scratch/

One process, one thread. All variants of a cell are built and run once first; then every round runs all of them, in
reversed order every other round, with the garbage collector off. A ratio is taken within each round; its median,
lowest and highest are reported. A busy machine changes seconds, not ratios; FLOPs, bytes and shapes never change.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache; PEFT would ask the Hub when it saves

import fetch_models
import torch
from benchmarks.floor import BareLoop, Seconds, ShapeRecorder, Work, flops, interleaved, saved_bytes, spread, timed
from benchmarks.peft_baselines import twin, without_pefts_warning
from benchmarks.report import RESULTS, SCRATCH, Report, Row, bar
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_reprogram import (
    PromptConfig,
    ReprogramConfig,
    VerbalizerConfig,
    get_reprogram_model,
    make_trainer,
)


SEED = 0
SLOTS = 10
BARS = {
    "step_ratio_to_floor": 1.05,
    "flops_ratio_to_body_forward": 2.02,
    "saved_bytes_ratio_to_floor": 1.02,
    "scoring_ratio_to_body_forward": 1.03,
    "vocabulary_sized_tensors": 0,
    "eight_programs_ratio_to_one": 1.05,
    "load_ms": 5,
    "switch_ms": 1,
    "trainer_overhead_ms": 5,
}
OTHER_BARS = {  # of speed_sharing.py, speed_maps.py and speed_sound.py
    "shared_prefix_ratio_to_text_only": 1.1,
    "suffix_step_ratio_to_floor": 1.15,
    "mapping_fits_ratio_to_floor": 1.1,
}
ABOUT = (
    "What a step, a scoring pass, loading and switching cost on a frozen SmolLM2-135M in float32. The floor is a bare "
    "loop: body, label rows, gradient to the input. Ratios are of CPU times of one thread, paired within a round: "
    "median, lowest and highest of n rounds. Milliseconds are wall time. PEFT's methods run through their own forward "
    "on as many positions; `lora:label_rows` is LoRA read as ours is, at the answer and the label words alone."
)

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Rows of a batch, and positions of each with its slots."""

    rows: int
    positions: int

    def __str__(self) -> str:
        return f"{self.rows} rows x {self.positions} positions"


SHAPES = (Shape(8, 32), Shape(2, 128))
STEPS = 20  # of a run of Trainer


# What is compared ----------------------------------------------------------------------------------------------------


class Models:
    """One frozen base and everything that runs on it; each part is built when a cell first needs it.

    Args:
        layers: keep the first so many layers; None keeps all.
    """

    def __init__(self, layers: int | None = None) -> None:
        self.layers = layers
        self.folder = fetch_models.fetch("smollm2-135m")
        fetch_models.fetch("vader-amazon")

    @cached_property
    def base(self) -> PreTrainedModel:
        """The base, float32, frozen."""
        base = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, local_files_only=True)
        if self.layers is not None:
            base.model.layers = base.model.layers[: self.layers]
            base.config.num_hidden_layers = self.layers
        return base.requires_grad_(False).eval()

    @cached_property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    def twin(self) -> PreTrainedModel:
        """Another module tree on the very same weights, so that no method sees what another does to the base."""
        return twin(self.base)

    @cached_property
    def config(self) -> ReprogramConfig:
        """A soft prompt of ten slots and one label word per class."""
        return ReprogramConfig(
            program=PromptConfig(template="{prompt:5} {text} {prompt:5} It was{answer}"),
            mapping=VerbalizerConfig(words={"negative": [" bad"], "positive": [" good"]}),
        )

    @cached_property
    def ours(self) -> Any:
        """Ours."""
        return get_reprogram_model(self.twin(), self.config, self.tokenizer, seed=SEED)

    @cached_property
    def peft_prompt_tuning(self) -> PeftModel:
        """PEFT's prompt tuning, as many virtual tokens as we have slots."""
        torch.manual_seed(SEED)
        return get_peft_model(self.twin(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=SLOTS))

    @cached_property
    def lora(self) -> PeftModel:
        """LoRA of rank 8 on queries and values."""
        torch.manual_seed(SEED)
        return get_peft_model(self.twin(), LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"]))

    def columns(self, shape: Shape) -> Columns:
        """The real review sentences whose laid out length comes nearest to a shape, laid out for ours."""
        collator = self.ours.collator(features=fetch_models.LABELS)
        return collator(self.rows_near(shape))

    def rows_near(self, shape: Shape) -> list[dict[str, Any]]:
        """Those sentences as rows, nearest first."""
        rows = fetch_models.rows("vader-amazon", "train")
        lengths = [len(row.ids) for row in self.ours.collator(features=fetch_models.LABELS).lay_out(rows)]
        return [
            rows[i] for i in sorted(range(len(rows)), key=lambda i: abs(lengths[i] - shape.positions))[: shape.rows]
        ]

    def floor(self, columns: Columns) -> BareLoop:
        """The bare loop on the vectors that our program makes of the same rows."""
        batch = self.ours.reprogrammed.batch(**{k: v for k, v in columns.items() if k != "labels"})
        with torch.no_grad():
            embeds = self.ours.reprogrammed.program(batch, self.ours.backbone).embeds
        label_rows = self.base.lm_head.weight[list(self.ours.active_mapping().ids)].clone()
        return BareLoop(self.base.model, label_rows, embeds, columns["answer_index"], columns["labels"])

    def lora_on_label_rows(self, columns: Columns) -> BareLoop:
        """LoRA read as we read: shows what of the difference is the reading, and what the method."""
        loop = self.floor(columns)
        loop.body, loop.embeds = self.lora.get_base_model().model, loop.embeds.detach()
        return loop


def for_peft(columns: Columns, slots: int) -> Columns:
    """The same rows as PEFT takes them: PEFT sets its own `slots` before them, so that positions come out equal.

    The label stands on the last token; a label word behind it, which our rows do not need, would be one more position.

    Args:
        columns: laid out for ours, right-padded.
        slots: positions that PEFT adds; where it adds none (LoRA), filler tokens take the place of our slots.
    """
    kept = [ids[(index < 0) & (mask > 0)] if slots else ids[mask > 0] for ids, index, mask in _by_row(columns)]
    ids = nn.utils.rnn.pad_sequence(kept, batch_first=True)  # (batch, time without PEFT's slots)
    lengths = torch.tensor([len(row) for row in kept])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    last = torch.arange(ids.shape[1]) == lengths[:, None] - 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~last, -100)}


def _by_row(columns: Columns) -> Iterator[tuple[Tensor, ...]]:
    return zip(columns["input_ids"], columns["slot_index"], columns["attention_mask"], strict=True)


def trainer_of(model: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """A whole step: forward, backward, AdamW on what trains in a model."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@torch.no_grad()
def score(model: nn.Module, columns: Columns, **kwargs: Any) -> Tensor:
    """Target logits by our forward, no labels."""
    return model(**{k: v for k, v in columns.items() if k != "labels"}, **kwargs).logits


# How it is told ------------------------------------------------------------------------------------------------------


def paired(task: str, method: str, metric: str, over: list[Seconds], under: list[Seconds]) -> Row:
    """The row of a ratio taken within each round."""
    numbers = spread([a.cpu / b.cpu for a, b in zip(over, under, strict=True)])
    wall = statistics.median(a.wall / b.wall for a, b in zip(over, under, strict=True))
    return Row(task, method, metric, *numbers, note=_note(method, metric, numbers[0], f"by wall time {wall:.3f}"))


def milliseconds(task: str, method: str, metric: str, runs: list[Seconds], note: str = "") -> Row:
    """The row of a time too short for rounds: the median of many, wall time."""
    numbers = spread([1000 * run.wall for run in runs])
    return Row(task, method, metric, *numbers, note=_note(method, metric, numbers[0], note))


def counted(task: str, method: str, metric: str, value: float, note: str = "") -> Row:
    """The row of an exact count."""
    return Row(task, method, metric, value, n=1, note=_note(method, metric, value, note))


def _note(method: str, metric: str, value: float, more: str) -> str:
    """The bars are ours; what others need stands beside them without one."""
    bars = BARS | OTHER_BARS
    parts = [bar(value, bars[metric])] if method == "ours" and metric in bars else []
    return "; ".join([*parts, more] if more else parts)


# Cells ---------------------------------------------------------------------------------------------------------------


def counts(models: Models, shape: Shape) -> Iterator[Row]:
    """FLOPs, saved bytes and shapes: exact."""
    columns = models.columns(shape)
    floor, task = models.floor(columns), f"step, {shape}"
    body, kept = flops(floor.forward), saved_bytes(floor.loss, models.base.parameters())
    yield counted(task, "floor", "body_forward_gflop", body / 1e9)
    yield counted(task, "floor", "saved_mib", kept / 2**20)
    for method, loss in losses(models, columns).items():
        model = getattr(models, method)
        step = flops(lambda loss=loss: loss().backward())
        yield counted(task, method, "flops_ratio_to_body_forward", step / body)
        held = saved_bytes(loss, model.parameters())
        yield counted(task, method, "saved_bytes_ratio_to_floor", held / kept, f"{held / 2**20:.1f} MiB")
        with ShapeRecorder(model.parameters()) as made:
            loss().backward()
        model.zero_grad()
        wide = made.wider_than(models.base.config.vocab_size)
        yield counted(task, method, "vocabulary_sized_tensors", len(wide))
    yield from counts_of_scoring(models, columns, f"scoring, {shape}")


def counts_of_scoring(models: Models, columns: Columns, task: str) -> Iterator[Row]:
    """The largest tensor that scoring makes, beside the body's widest activation and the logits it leaves out."""
    with ShapeRecorder(models.ours.parameters()) as made:
        score(models.ours, columns)
    config, positions = models.base.config, columns["input_ids"].numel()
    yield counted(task, "ours", "vocabulary_sized_tensors", len(made.wider_than(config.vocab_size)))
    activation = positions * max(config.hidden_size, config.intermediate_size)
    note = f"{made.largest():,} numbers; logits at all positions: {positions * config.vocab_size:,}"
    yield counted(task, "ours", "largest_tensor_ratio_to_activation", made.largest() / activation, note)


def losses(models: Models, columns: Columns) -> dict[str, Callable[[], Tensor]]:
    """The loss of each method by its own forward, on the same rows; positions are equal."""
    inputs = {"ours": columns, "peft_prompt_tuning": for_peft(columns, SLOTS), "lora": for_peft(columns, 0)}
    return {name: lambda name=name: getattr(models, name)(**inputs[name]).loss for name in inputs}


def steps(models: Models, shape: Shape, rounds: int) -> Iterator[Row]:
    """Training steps of all methods, and scoring, beside the bare loop."""
    columns = models.columns(shape)
    floor = models.floor(columns)
    trained = {name: trainer_of(getattr(models, name), loss) for name, loss in losses(models, columns).items()}
    trained["lora:label_rows"] = trainer_of(models.lora, models.lora_on_label_rows(columns).loss)
    # PEFT's logits come last: the memory that they free is mapped anew by whoever comes next.
    frozen = {"forward": floor.forward, "floor": floor.step}
    ours = {"ours": trained.pop("ours"), "scoring": lambda: score(models.ours, columns)}
    taken = interleaved({**frozen, **ours, **trained}, rounds)
    task = f"step, {shape}"
    for method in ("ours", *trained):
        yield paired(task, method, "step_ratio_to_floor", taken[method], taken["floor"])
    for method in trained:
        yield paired(task, method, "step_ratio_to_ours", taken[method], taken["ours"])
    yield paired(task, "floor", "step_ratio_to_body_forward", taken["floor"], taken["forward"])
    scoring = f"scoring, {shape}"
    yield paired(scoring, "ours", "scoring_ratio_to_body_forward", taken["scoring"], taken["forward"])
    for method in ("floor", "ours", *trained):
        yield Row(task, method, "cpu_seconds", *spread([run.cpu for run in taken[method]]))


def eight_programs(models: Models, shape: Shape, rounds: int) -> Iterator[Row]:
    """Every row with its own program, against the same rows with one."""
    columns, names = models.columns(shape), add_programs(models)
    taken = interleaved(
        {
            "one": lambda: score(models.ours, columns),
            "eight": lambda: score(models.ours, columns, adapter_names=names),
        },
        2 * rounds,
    )
    yield paired(f"scoring, {shape}", "ours", "eight_programs_ratio_to_one", taken["eight"], taken["one"])


def add_programs(models: Models, count: int = 8) -> list[str]:
    """Names of so many programs on our model, made where they are missing."""
    names = ["default"] + [f"p{i}" for i in range(1, count)]
    for i, name in enumerate(names):
        if name not in models.ours.peft_config:
            models.ours.add_adapter(name, models.config, seed=i)
    return names


def load_and_switch(models: Models, repeats: int) -> Iterator[Row]:
    """A saved program onto a resident base, under a new name each time; and from one program to another."""
    task = "a saved program onto a resident base"
    for method in ("ours", "peft_prompt_tuning", "lora"):
        model = getattr(models, method)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, selected_adapters=["default"])
            loads, switches = loading(model, folder, repeats)
            weights = Path(folder) / "adapter_model.safetensors"
            size = weights.stat().st_size
            if method == "ours":
                bare = [timed(lambda weights=weights: load_file(weights)) for _ in range(repeats)]
                yield milliseconds(task, "floor", "load_ms", bare, "safetensors.load_file alone")
        yield milliseconds(task, method, "load_ms", loads, f"a file of {size:,} bytes")
        yield milliseconds("from one program to another", method, "switch_ms", switches)


def loading(model: PeftModel, folder: str, repeats: int) -> tuple[list[Seconds], list[Seconds]]:
    """Times of `load_adapter` and of `set_adapter`; the first of each warms up."""
    loads, switches = [], []
    for _ in tqdm(
        range(repeats + 1), desc=f"loading: {type(model).__name__}", unit="load", leave=False, mininterval=2
    ):
        loads.append(timed(lambda: model.load_adapter(folder, "spare")))
        switches.append(timed(lambda: model.set_adapter("spare")))
        switches.append(timed(lambda: model.set_adapter("default")))
        model.delete_adapter("spare")
    return loads[1:], switches[2:]


class StepClock(TrainerCallback):
    """CPU seconds from the end of one step to the end of the next: all that a step costs with its batch."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def trainer_overhead(rounds: int) -> Iterator[Row]:
    """What a step of Trainer takes over one of a bare loop on the same rows: forward, backward, clipping, AdamW.

    Short rows, and the first layer alone: Trainer does the same for any batch and any depth, and all that it does
    drowns in the noise of a step of 30 layers (half a second against a few milliseconds).
    """
    models, shape = Models(layers=1), Shape(1, 20)
    columns, rows = models.columns(shape), models.rows_near(shape)
    arguments = TrainingArguments(
        tempfile.gettempdir(), max_steps=STEPS + 1, per_device_train_batch_size=shape.rows, optim="adamw_torch",
        remove_unused_columns=False, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        use_cpu=True, seed=SEED,
    )  # fmt: skip
    trained = [p for p in models.ours.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def bare() -> list[float]:
        ends = []
        for _ in range(STEPS + 1):
            models.ours.train()
            models.ours(**columns).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ends.append(time.process_time())
        return ends

    def with_trainer() -> list[float]:
        trainer = make_trainer(models.ours, arguments, rows, features=fetch_models.LABELS)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock := StepClock())
        trainer.train()
        return clock.ends

    ways, found = {"bare": bare, "trainer": with_trainer}, {"bare": [], "trainer": []}
    for number in tqdm(range(rounds + 1), desc="trainer overhead", unit="round", leave=False):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            ends = ways[name]()
            if number:  # the first round warms up
                found[name].append(statistics.median(b - a for a, b in pairwise(ends)))
    extra = [1000 * (ours - bare) for ours, bare in zip(found["trainer"], found["bare"], strict=True)]
    numbers = spread(extra)
    task = f"a step of Trainer over a bare loop, one layer, {shape}"
    note = f"CPU; the bare step takes {1000 * statistics.median(found['bare']):.0f} ms"
    yield Row(
        task, "ours", "trainer_overhead_ms", *numbers, note=_note("ours", "trainer_overhead_ms", numbers[0], note)
    )


# The command ---------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the numbers decide nothing about the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="keep the first so many of 30 layers (a trial, no evidence)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds per cell (default 9; below 5 no evidence)")
    parser.add_argument("--quick", action="store_true", help="--layers 4 --rounds 2")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    parser.add_argument("--out", type=Path, help="folder for the results")
    given = parser.parse_args(arguments)
    layers, rounds = (4, 2) if given.quick else (given.layers, given.rounds)
    evidence = layers is None and rounds >= 5

    torch.set_num_threads(1)
    models = Models(layers)
    settings = {"base": "smollm2-135m", "layers": layers or 30, "rounds": rounds, "threads": 1, "slots": SLOTS}
    report = Report(
        "speed", ABOUT, settings, [SEED], given.out or (RESULTS if evidence else SCRATCH), fresh=given.fresh
    )
    first = SHAPES[0]
    with without_pefts_warning():
        report.cell("counts", lambda: counts(models, first))
        for shape in SHAPES:
            report.cell(f"steps, {shape}", lambda shape=shape: steps(models, shape, rounds))
        report.cell("eight programs", lambda: eight_programs(models, first, rounds))
        report.cell("load and switch", lambda: load_and_switch(models, 10 * rounds))
        report.cell("trainer overhead", lambda: trainer_overhead(2 * rounds))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
