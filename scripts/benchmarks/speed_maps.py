#!/usr/bin/env python3
"""What a hundred trials of a mapping cost: on SmolLM2-135M, beside one pass of its body and a hundred bare fits.

    python scripts/benchmarks/speed_maps.py            # a few minutes; writes results/speed_maps.{json,md}
    python scripts/benchmarks/speed_maps.py --quick    # 4 layers, 2 rounds; into results/scratch/

Ours keep in a folder what the frozen model gives of the rows, and fit a ridge map with its leave-one-out penalty on it
each time. Rounds and ratios are those of speed.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fetch_models
import numpy as np
import torch
from benchmarks.floor import interleaved, spread
from benchmarks.report import RESULTS, SCRATCH, Report, Row
from benchmarks.speed import SEED, Models, Shape, paired

import hf_reprogram as hr
from hf_reprogram.mappings.linear import ridge
from hf_reprogram.serve import batches


FITS, FIT_ROWS = 100, Shape(128, 32)  # mappings on one frozen model, and the rows that they are fitted on
ABOUT = (
    "A hundred mappings on one frozen model, whose features are computed once and kept on disk. SmolLM2-135M in "
    "float32. Ratios are of CPU times of one thread, paired within a round: median, lowest and highest of n rounds."
)


def mapping_fits(models: Models, rounds: int) -> Iterator[Row]:
    """So many mappings on one frozen model, beside one pass of the body and the bare fits."""
    config = hr.ReprogramConfig(
        program={"type": "none", "template": "{text}{answer}"}, mapping=hr.LinearConfig(), labels=fetch_models.LABELS
    )
    model = hr.get_reprogram_model(models.twin(), config, models.tokenizer)
    rows, collator = models.rows_near(FIT_ROWS), model.collator(features=fetch_models.LABELS)
    made = collator.lay_out(rows)
    parts = [columns for _, columns in batches(model, collator, made)]
    targets = np.eye(len(fetch_models.LABELS))[[row.label for row in made]]

    @torch.no_grad()
    def floor() -> None:
        states = []
        for part in parts:
            hidden = models.base.model(part["input_ids"], use_cache=False).last_hidden_state  # (batch, time, dim)
            states.append(hidden[torch.arange(len(hidden)), part["answer_index"]])
        features = torch.cat(states).double().numpy()
        for _ in range(FITS):
            ridge(features, targets)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            frozen = model.frozen_rows(rows, cache=folder, features=fetch_models.LABELS)
            for _ in range(FITS):
                model.fit_mapping(frozen)

    taken = interleaved({"floor": floor, "ours": ours}, rounds)
    task = f"{FITS} mapping fits, {FIT_ROWS}"
    yield paired(task, "ours", "mapping_fits_ratio_to_floor", taken["ours"], taken["floor"])
    yield Row(task, "floor", "cpu_seconds", *spread([run.cpu for run in taken["floor"]]))


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
    report = Report("speed_maps", ABOUT, settings, [SEED], SCRATCH if given.quick else RESULTS, fresh=given.fresh)
    report.cell("mapping fits", lambda: mapping_fits(models, rounds))
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
