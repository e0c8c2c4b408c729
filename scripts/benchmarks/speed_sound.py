#!/usr/bin/env python3
"""What a step costs where the base hears: a program of the wave and a map on Moonshine-tiny and the attention-RNN.

    python scripts/fetch_models.py moonshine-tiny attention-rnn
    python scripts/benchmarks/speed_sound.py            # a few minutes; writes results/speed_sound.{json,md}
    python scripts/benchmarks/speed_sound.py --quick    # 3 rounds; into results/scratch/

The clips are noise of one second: no cost depends on what is heard. Rounds, threads and ratios are those of speed.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the cache

import fetch_models
import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.floor import Seconds, interleaved, saved_bytes, spread
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.speech_methods import SECOND, source
from benchmarks.speed import counted, paired, trainer_of
from torch import Tensor

import hf_reprogram as hr
from hf_reprogram.mappings.linear import ridge


SEED = 0
RATE, CLASSES, BATCH = 16000, 40, 32
FITS, FIT_CLIPS = 100, 1000  # mappings on one frozen model, and the clips that they are fitted on: arabic-40 has 1,107
ABOUT = (
    "What a training step costs on frozen models that hear, in float32: a wave of one second added to every clip, and "
    "a linear map to 40 classes. The floor is the bare frozen forward with the gradient to its input. Ratios are of "
    "CPU times of one thread, paired within a round: median, lowest and highest of n rounds."
)


@dataclass(frozen=True)
class Heard:
    """A base, what the map reads of it, and the same by hand.

    Args:
        name: as fetch_models has it.
        mapping: options of the linear map.
        bare: (base, waves (batch, samples)) to what is mapped, (batch, width).
    """

    name: str
    mapping: dict[str, Any]
    bare: Callable[[Any, Tensor], Tensor]


BASES = (
    Heard(
        "moonshine-tiny",
        {"on": "state", "pool": "mean"},
        lambda base, waves: base.model.encoder(waves).last_hidden_state.mean(1),
    ),
    Heard("attention-rnn", {"on": "classes"}, lambda base, waves: base(waves).logits),
)


def clips(count: int) -> list[dict[str, Any]]:
    """Rows of one second of noise; every class is there."""
    waves = 0.1 * torch.randn(count, SECOND["samples"], generator=torch.Generator().manual_seed(SEED))
    heard = [{"array": wave.numpy(), "sampling_rate": RATE} for wave in waves]
    return [{"audio": clip, "label": str(i % CLASSES)} for i, clip in enumerate(heard)]


def ours(heard: Heard, program: dict[str, Any], solver: str) -> hr.ReprogramModel:
    """A program and the map on the base."""
    base, processor = source(heard.name)
    config = hr.ReprogramConfig(
        program=program,
        mapping={"type": "linear", "solver": solver, **heard.mapping},
        labels=[str(i) for i in range(CLASSES)],
        canvas=SECOND,
    )
    return hr.get_reprogram_model(base, config, processing_class=processor, seed=SEED)


def step(heard: Heard, rounds: int) -> Iterator[Row]:
    """A whole step of ours beside the bare loop, on the same waves."""
    model = ours(heard, {"type": "waveform"}, "gradient").train()
    columns = model.collator()(clips(BATCH))
    base, _ = source(heard.name)
    waves = columns["input_values"].clone().requires_grad_()
    matrix = torch.zeros(CLASSES, heard.bare(base, waves).shape[1])

    def bare() -> Tensor:
        return F.cross_entropy(F.linear(heard.bare(base, waves), matrix), columns["labels"])

    @torch.no_grad()
    def forward() -> Tensor:
        return heard.bare(base, waves)

    def loss() -> Tensor:
        return model(**columns).loss

    task = f"step, {heard.name}, {BATCH} clips of 1 s"
    kept = saved_bytes(bare, base.parameters())
    held = saved_bytes(loss, model.parameters())
    yield counted(task, "ours", "saved_bytes_ratio_to_floor", held / kept, f"{held / 2**20:.1f} MiB")
    ways = {"forward": forward, "floor": lambda: torch.autograd.grad(bare(), waves), "ours": trainer_of(model, loss)}
    taken = interleaved(ways, rounds)
    yield paired(task, "ours", "step_ratio_to_floor", taken["ours"], taken["floor"])
    yield paired(task, "floor", "step_ratio_to_body_forward", taken["floor"], taken["forward"])
    yield from seconds(task, taken)
    model.unload()


def mapping_fits(heard: Heard, rounds: int) -> Iterator[Row]:
    """So many maps from frozen features that are computed once, beside one bare pass and the bare fits."""
    model = ours(heard, {"type": "none"}, "ridge").eval()
    rows = clips(FIT_CLIPS)
    (base, _), collator = source(heard.name), model.collator()
    parts = [collator(rows[i : i + BATCH])["input_values"] for i in range(0, len(rows), BATCH)]
    targets = np.eye(CLASSES)[[int(row["label"]) for row in rows]]

    @torch.no_grad()
    def floor() -> None:
        features = torch.cat([heard.bare(base, part) for part in parts]).double().numpy()
        for _ in range(FITS):
            ridge(features, targets)

    def cached() -> None:
        with tempfile.TemporaryDirectory() as folder:
            frozen = model.frozen_rows(rows, batch_size=BATCH, cache=folder)
            for _ in range(FITS):
                model.fit_mapping(frozen)

    taken = interleaved({"floor": floor, "ours": cached}, rounds)
    task = f"{FITS} mapping fits, {heard.name}, {FIT_CLIPS} clips of 1 s"
    yield paired(task, "ours", "mapping_fits_ratio_to_floor", taken["ours"], taken["floor"])
    yield from seconds(task, {"floor": taken["floor"]})
    model.unload()


def seconds(task: str, taken: dict[str, list[Seconds]]) -> Iterator[Row]:
    """CPU seconds of each way: what the ratios are of."""
    for method, runs in taken.items():
        yield Row(task, method, "cpu_seconds", *spread([run.cpu for run in runs]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the numbers decide nothing about the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds (a trial, no evidence)")
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    parser.add_argument("--out", type=Path, help="folder for the results")
    given = parser.parse_args(arguments)
    rounds = 3 if given.quick else 9

    torch.set_num_threads(1)
    for heard in BASES:
        fetch_models.fetch(heard.name)
    settings = {"rounds": rounds, "threads": 1, "canvas": SECOND, "classes": CLASSES, "batch": BATCH}
    folder = given.out or (SCRATCH if given.quick else RESULTS)
    report = Report("speed_sound", ABOUT, settings, [SEED], folder, fresh=given.fresh)
    for heard in BASES:
        report.cell(f"step, {heard.name}", lambda heard=heard: step(heard, rounds))
        report.cell(f"mapping fits, {heard.name}", lambda heard=heard: mapping_fits(heard, rounds // 3))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
