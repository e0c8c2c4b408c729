#!/usr/bin/env python3
"""Give a frozen pitch tracker its hearing back under a loud hum, by 320 numbers added to what it hears.

CREPE-tiny stays as it is. A fixed map reads its 360 pitches as the 12 pitch classes; a hum of 50, 100 and 150 Hz makes
that useless. One period of sound, repeated, is added to every frame and learns from 240 labelled ones. Beside it stand
the same sound in closed form (minus the mean of 24 unlabelled frames), the frozen tracker without a program, with a
linear probe, a classifier of spectra, and the same program on a tracker of random weights. The sounds are synthetic.

    python scripts/fetch_models.py crepe-tiny
    python scripts/demo_speech.py                                # about a minute on one idle core

The programs and a figure are left in demo-output/, and the rows in its table.json. Nothing is chosen on test frames.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fetch_models
import numpy as np
import torch
from benchmarks.baselines import Outcome, artefact_bytes, folder_bytes, guesses, majority
from benchmarks.side_by_side import Progress
from demo import ROOT, Reporter, digest, quiet, replacing, say
from demo_report import shown, table
from demo_speech_report import draw, notes, verdict
from demo_speech_sounds import FRAME, NOTES, PERIOD, RATE, Data, Row, hum, make_data
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PrinterCallback, TrainingArguments

import hf_reprogram as hr
import hf_reprogram.sources  # noqa: F401 -- CREPE, which transformers lacks: its auto classes know it from here on
from hf_reprogram.tools.random_source import random_source


MODEL = "crepe-tiny"
HUM, CLEAN = "synthetic pitch, hum", "synthetic pitch, clean"  # tasks of the table
SEED, BATCH, LEARNING_RATE, EPOCHS = 0, 24, 3e-2, 14
UNLABELLED = 24  # frames of the closed form
TRAINING_COST = 4  # a training frame takes about as long as four test frames


# The frozen tracker and its programs --------------------------------------------------------------------------------


def load_base() -> tuple[Any, Any]:
    """CREPE-tiny as it was fetched, and its feature extractor."""
    folder = fetch_models.asset_path(MODEL)
    base = AutoModelForAudioClassification.from_pretrained(folder, local_files_only=True)
    return base, AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)


def note_of(pitch: str) -> str:
    """The pitch class of one of CREPE's labels, "441.54 Hz": the nearest semitone, octaves aside."""
    hertz = float(pitch.split()[0])
    return NOTES[round(69 + 12 * math.log2(hertz / 440)) % 12]


def config(base: Any, program: Any) -> hr.ReprogramConfig:
    """A program, and the fixed map: the score of a pitch class is the mean probability of its 30 pitches."""
    pitches = list(base.config.id2label.values())
    groups = {note: [pitch for pitch in pitches if note_of(pitch) == note] for note in NOTES}
    mapping = hr.LabelsConfig(method="given", groups=groups, scores="probabilities", centred=False)
    return hr.ReprogramConfig(program=program, mapping=mapping, canvas={"samples": FRAME})


def with_sound(base: Any, extractor: Any) -> hr.ReprogramModel:
    """A tracker with a sound to learn, still silent."""
    return hr.get_reprogram_model(base, config(base, hr.WaveformConfig(period=PERIOD)), processing_class=extractor)


def estimate(model: hr.ReprogramModel, rows: Sequence[Row]) -> None:
    """The active sound in closed form, from frames whose labels it does not see."""
    columns = model.collator()([{k: v for k, v in row.items() if k != "label"} for row in rows])
    model.active_programs()[0].estimate(columns["input_values"], columns["offset"])


def train(model: hr.ReprogramModel, rows: Sequence[Row], epochs: int, seed: int, bar: Progress) -> list[float]:
    """An ordinary Trainer's run; the losses of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            remove_unused_columns=False,
            learning_rate=LEARNING_RATE,  # high: the sound must grow as loud as the hum
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            max_grad_norm=0.0,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            seed=seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = hr.make_trainer(model, arguments, rows)
        reporter = Reporter(bar.tell, BATCH * TRAINING_COST)
        trainer.add_callback(reporter)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return reporter.losses


# What is measured ----------------------------------------------------------------------------------------------------


def judge(
    model: hr.ReprogramModel, method: str, rows: Sequence[Row], bar: Progress, numbers: int = 0, fitting: float = 0.0
) -> Outcome:
    """What the active program makes of some frames.

    Args:
        method: its name in the table.
        numbers: how many were trained or estimated.
        fitting: seconds that this took.
    """
    start = time.perf_counter()
    parts = []
    for i in range(0, len(rows), 60):
        parts.append(model.score(rows[i : i + 60], progress=False))
        bar.tell(len(parts[-1]), method)
    scores = torch.cat(parts)
    seconds = fitting + time.perf_counter() - start
    return Outcome(method, guesses(scores, NOTES), numbers, artefact_bytes(model), seconds, scores)


def spectra(train: Sequence[Row], test: Sequence[Row]) -> Outcome:
    """Logistic regression on the log power spectra of frames: no pitch tracker at all."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(rows: Sequence[Row]) -> np.ndarray:
        waves = np.stack([row["audio"]["array"] for row in rows]) * np.hanning(FRAME)
        return np.log(np.square(np.abs(np.fft.rfft(waves))) + 1e-8)  # (rows, 513)

    start = time.perf_counter()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features(train), [row["label"] for row in train])
    found = model.predict(features(test)).tolist()
    numbers = model[-1].coef_.size + model[-1].intercept_.size
    return Outcome("classical", found, numbers, len(pickle.dumps(model)), time.perf_counter() - start)


def untaught(model: hr.ReprogramModel, data: Data) -> dict[str, list[Outcome]]:
    """Everything that no gradient trains; leaves the closed form in the model as `closed`."""
    base, count = model.backbone.base, len(data.hummed)
    probe = hr.LinearConfig(on="classes", solver="ridge")
    model.add_adapter("probe", hr.ReprogramConfig(mapping=probe, labels=NOTES, canvas={"samples": FRAME}))
    model.set_adapter("probe")
    start = time.perf_counter()
    model.fit_mapping(data.train)
    fitting = time.perf_counter() - start
    bar = Progress("untaught", 5 * count)
    try:
        model.add_adapter("map_only", config(base, "none"))
        model.set_adapter("map_only")
        found = {task: [judge(model, "map_only", rows, bar)] for task, rows in of_tasks(data)}

        model.set_adapter("probe")
        numbers = len(NOTES) * (base.config.num_labels + 1)
        found[HUM].append(judge(model, "probe", data.hummed, bar, numbers, fitting))

        model.add_adapter("closed", config(base, hr.WaveformConfig(period=PERIOD)))
        model.set_adapter("closed")
        start = time.perf_counter()
        estimate(model, data.train[:UNLABELLED])
        fitting = time.perf_counter() - start
        for task, rows in of_tasks(data):
            found[task].append(judge(model, "ours:closed", rows, bar, PERIOD, fitting))
    finally:
        bar.close()
    found[HUM] += [majority(data.train, data.hummed), spectra(data.train, data.hummed)]
    return found


def taught(
    model: hr.ReprogramModel, name: str, data: Data, epochs: int, seed: int
) -> tuple[dict[str, Outcome], list[float]]:
    """The learned sound, on hummed and on clean frames; the losses of its steps."""
    bar = Progress(name, epochs * len(data.train) * TRAINING_COST + 2 * len(data.hummed))
    try:
        model.set_adapter("default")
        start = time.perf_counter()
        losses = train(model, data.train, epochs, seed, bar)
        fitting = time.perf_counter() - start
        judged = {task: judge(model, name, rows, bar, PERIOD, fitting) for task, rows in of_tasks(data)}
    finally:
        bar.close()
    return judged, losses


def of_tasks(data: Data) -> list[tuple[str, list[Row]]]:
    """The tasks and their frames."""
    return [(HUM, data.hummed), (CLEAN, data.clean)]


def record(losses: list[float], data: Data, seed: int, accuracy: float, others: Sequence[Outcome]) -> dict[str, Any]:
    """What the artefact says of its training, and what the others reach; to the card, `classical` is one of texts."""
    return {
        "seed": seed,
        "data": f"synthetic tones under a hum, {len(data.train)} frames",
        "steps": len(losses),
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)},
        "metrics": {"accuracy": round(accuracy, 2), "test_rows": len(data.hummed)},
        "baselines": {
            other.method.replace("classical", "regression on spectra"): {
                "accuracy": round(other.accuracy(data.truth), 2)
            }
            for other in others
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def measure(data: Data, epochs: int, seed: int = SEED) -> tuple[dict[str, list[Outcome]], hr.ReprogramModel]:
    """Every row of the table by task, and the model with both sounds: `default` is learned, `closed` estimated."""
    base, extractor = load_base()
    stranger = random_source(base, seed)
    before = digest(base)
    model = with_sound(base, extractor)

    say("the frozen pitch tracker as it is, and what needs no gradients")
    found = untaught(model, data)

    say("training: on the frozen tracker, then on a tracker of random weights")
    ours, losses = taught(model, "ours", data, epochs, seed)
    model.peft_config["default"].training = record(losses, data, seed, ours[HUM].accuracy(data.truth), found[HUM])
    ours = {task: replace(outcome, artefact_bytes=artefact_bytes(model)) for task, outcome in ours.items()}
    other, _ = taught(with_sound(stranger, extractor), "random_source", data, epochs, seed)
    if digest(base) != before:
        raise RuntimeError("training has changed the frozen base. Please report this")
    return {HUM: [*found[HUM], ours[HUM], other[HUM]], CLEAN: [*found[CLEAN], ours[CLEAN]]}, model


# The whole -----------------------------------------------------------------------------------------------------------


def reload(folder: Path, rows: Sequence[Row], trained: Tensor) -> hr.ReprogramModel:
    """The learned program on a fresh base, whose scores are those of the trained one, bit for bit."""
    model = hr.AutoReprogramModel.from_pretrained(folder)
    if not torch.equal(model.score(rows, progress=False), trained):
        raise RuntimeError(f"{folder} does not score as the trained program did. Please report this")
    return model


def run(data: Data, epochs: int, made: Path, others: list[Row]) -> None:
    """The job itself; leaves programs, figure and table in `made`, `others` before its own rows of the table."""
    found, model = measure(data, epochs)
    rows = []
    for task, outcomes in found.items():
        say(f"{task}: accuracy in percent on {len(data.truth):,} held-out frames")
        made_rows = table(outcomes, data.truth, notes(task == HUM, len(data.train), UNLABELLED), task)
        rows += made_rows
        print(shown(made_rows))
    print(f"\n{verdict(found[HUM], found[CLEAN], data.truth)}")

    say("the learned program, saved and loaded again")
    folder, few = made / "speech-program", data.hummed[:12]
    model.set_adapter("default")
    model.save_pretrained(folder, selected_adapters=["default", "closed"])
    loaded = reload(folder, few, model.score(few, progress=False))
    print(
        f"{folder_bytes(folder):,} bytes with the closed form; the same scores bit for bit; the tracker is unchanged\n"
    )
    deaf = model.predict([{**row, "adapter": "map_only"} for row in few[::4]], progress=False)
    for row, before, after in zip(few[::4], deaf, loaded.predict(few[::4], progress=False), strict=True):
        told = [f"{guess['label']:<2} {100 * guess['score']:5.1f} %" for guess in (before, after)]
        print(f"  a hummed {row['label']:<2} is heard as {told[0]} without the program, {told[1]} with it")

    sounds = {
        name: model.base_model.sites()[0].entries[name][0].sound().detach().numpy() for name in ("default", "closed")
    }
    reached = {outcome.method: outcome.accuracy(data.truth) for outcome in found[HUM]}
    draw(made / "speech-figure.png", hum(np.arange(PERIOD)), sounds["default"], sounds["closed"], reached, RATE)
    (made / "table.json").write_text(json.dumps([*others, *rows], indent=1) + "\n", encoding="utf-8")


def rows_of_others(output: Path) -> list[Row]:
    """What table.json holds of other demos."""
    try:
        found = json.loads((output / "table.json").read_text(encoding="utf-8"))
        return [row for row in found if row.get("task") not in (HUM, CLEAN)]
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError, TypeError):
        print(f"{output / 'table.json'} is damaged: it is written anew", flush=True)
        return []


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output", help="where the results go")
    parser.add_argument("--train-rows", type=int, default=240, help="labelled frames to learn from")
    parser.add_argument("--test-rows", type=int, default=600, help="held-out frames to judge")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training")
    options = parser.parse_args(arguments)
    if options.train_rows < 24 or options.test_rows < 12 or options.epochs < 1:
        parser.error("--train-rows is at least 24, --test-rows 12 and --epochs 1")
    start = time.monotonic()
    quiet()
    try:
        fetch_models.fetch(MODEL)
        data = make_data(options.train_rows, options.test_rows)
        with replacing(options.output) as made:
            run(data, options.epochs, made, rows_of_others(options.output))
    except fetch_models.AssetError as error:
        print(f"demo: {error}\n{options.output} is as it was", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndemo: stopped; {options.output} is as it was", file=sys.stderr)
        return 130
    taken = time.monotonic() - start
    print(f"\nspeech-program, speech-figure.png, table.json: {options.output} ({taken:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
