#!/usr/bin/env python3
"""Write the generated parts of the README: tables of methods, from the registry; numbers, from benchmark results.

python scripts/make_docs.py            # rewrite
python scripts/make_docs.py --check    # exit 1 where the README is not what would be written
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent))  # from wherever this file is imported

from docs_choose import blackbox, chosen
from docs_distill import distilled
from docs_language import language
from docs_maps import maps, under_programs
from docs_series import series
from docs_symbols import infilling, remap, sequences

from hf_reprogram.backbone.families import FAMILIES as ROWS_OF_DATA
from hf_reprogram.registry import KINDS, method_class, names
from hf_reprogram.testing import (
    AUDIO_FAMILIES,
    FAMILIES,
    SLOW_FAMILIES,
    mapping_config,
    pair_config,
    program_config,
    suits,
    tiny,
)


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "scripts" / "benchmarks" / "results"


def methods() -> str:
    """One row per registered method: its name, first sentence, options, paper."""
    rows = ["| kind | name | options | paper |", "|---|---|---|---|"]
    for kind in KINDS:
        for name in names(kind):
            cls = method_class(kind, name)
            options = [
                f.name
                for f in dataclasses.fields(cls.Options)
                if not f.metadata.get("help", "Filled").startswith("Filled")
            ]
            shown = ", ".join(f"`{o}`" for o in options) or "none"
            rows.append(f"| {kind} | `{name}` (`hr.{cls.Options.__name__}`) | {shown} | {cls.paper or 'control'} |")
    return "\n".join(rows)


def families() -> str:
    """Which mapping reads which base, with which programs: what tests/contract/test_pairs.py runs, pair by pair."""
    mappings, alike = names("mapping"), {}
    for family in (*FAMILIES, *SLOW_FAMILIES, *AUDIO_FAMILIES):
        cells = tuple(_programs(mapping, family) for mapping in mappings)
        alike.setdefault(cells, []).append(type(tiny(family)[0]).__name__)
    rows = [["base", *(f"`{m}`{_notes('mapping', m)}" for m in mappings)], ["---", *["---"] * len(mappings)]]
    rows += [[_classes(bases), *cells] for cells, bases in alike.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    programs = "; ".join(
        f"{word}: " + ", ".join(f"`{p}`{_notes('program', p)}" for p in _acting(family))
        for word, family in (("text", FAMILIES[0]), ("a wave", "wav2vec2-classifier"), ("features", "ast-classifier"))
    )
    notes = "\n".join(f"{i}. `{name}`: {what}" for i, (_, name, what) in enumerate(_exceptions(), 1))
    read = "; ".join(f"`{m}` {' or '.join(mapping_config(m).mapping.reads())}" for m in mappings)
    proved = {tiny(family)[0].config.model_type for family in (*FAMILIES, *SLOW_FAMILIES)}
    told = (
        f"yes: with every program that can act on such a base ({programs}). "
        f"-: refused, because such a base does not give what the mapping reads ({read}).",
        f"With a row of data too, proved when they are wrapped and not in every test: "
        f"{', '.join(f'`{name}`' for name in ROWS_OF_DATA if name not in proved)}. A family that stands nowhere here "
        "is asked for its parts. Where what it computes by them is what it computes by itself, it runs; else it is "
        "refused, with the parts it named and the differences seen.",
    )
    return "\n\n".join(part for part in (table, *told, notes) if part)


def _classes(names: list[str]) -> str:
    """Names of classes, shortened where several end alike: `ForCausalLM` of Llama, Gemma2."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        family, end = re.fullmatch(r"(.+?)((?:For\w+|LMHeadModel|EncoderModel|Model)?)", name).groups()
        kinds.setdefault(end, []).append(family)
    return "; ".join(f"`{end}` of {', '.join(families)}" for end, families in kinds.items())


def _programs(mapping: str, family: str) -> str:
    """The programs with which a mapping runs on a family: `yes` for all that act on it."""
    fit = [p for p in names("program") if suits(pair_config(p, mapping, family), family)]
    return "yes" if fit == _acting(family) else ", ".join(f"`{p}`" for p in fit) or "-"


@cache
def _acting(family: str) -> list[str]:
    """Programs that can act on a family, whatever reads it."""
    return [p for p in names("program") if suits(program_config(p, family), family)]


def _exceptions() -> list[tuple[str, str, str]]:
    """(kind, name, what) of all that methods say they cannot meet."""
    methods = [(kind, name) for kind in KINDS for name in names(kind)]
    return [
        (kind, name, f"`{check}` does not hold: {reason}")
        for kind, name in methods
        for check, reason in method_class(kind, name).xfail.items()
    ]


def _notes(kind: str, name: str) -> str:
    """References to a method's exceptions."""
    return "".join(f" ({i})" for i, found in enumerate(_exceptions(), 1) if found[:2] == (kind, name))


def result(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def maybe(name: str) -> dict[str, Any] | None:
    """The same, None where it has not run yet."""
    return result(name) if (RESULTS / f"{name}.json").is_file() else None


def every(name: str) -> list[dict[str, Any]]:
    """What it wrote in all its runs: of all at once, and of parts that were measured alone."""
    return [result(path.stem) for path in sorted(RESULTS.glob(f"{name}*.json"))]


ABOUT = {
    "ours": "ours: 10 vectors on the frozen model",
    "probe": "linear probe of its states",
    "calibrated": "its label words, calibrated, no training",
    "zero_shot": "its label words, raw, no training",
    "classical:all": "TF-IDF + logistic regression on all 1,305 sentences",
    "classical:32": "TF-IDF + logistic regression on the same 32",
    "majority": "always the commoner label",
    "random_source": "ours on a model of random weights",
}


def reviews() -> str:
    """Accuracy of every method on the demo's task, and what ours gains over each."""
    found = result("reviews")
    rows = {(r["method"], r["metric"]): r for r in found["rows"]}
    lines = [
        "| 32 labelled sentences, frozen SmolLM2-135M | accuracy | over draws | ours above it, 95 % interval |",
        "|---|--:|---|---|",
    ]
    for row in found["rows"]:
        if row["metric"] != "accuracy":
            continue
        gain = rows.get(("ours", f"accuracy_gain_over:{row['method']}"))
        span = f"{row['low']:.1f} to {row['high']:.1f}" if row["low"] is not None else ""
        above = f"{gain['value']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})" if gain else ""
        lines.append(f"| {ABOUT[row['method']]} | {row['value']:.1f} | {span} | {above} |")
    settings = found["settings"]
    return "\n".join(lines) + (
        f"\n\n{len(found['seeds'])} draws of 32 sentences, {settings['test_rows']:,} held-out ones "
        f"on which nothing was chosen; `{found['command']}` at {found['commit'][:12]}. `make demo` is draw 0."
    )


PITCH = {
    "ours": "ours: 320 numbers learned from 240 labelled frames",
    "ours:closed": "the same in closed form, 24 unlabelled frames",
    "classical": "logistic regression on the spectra of the same 240, no tracker",
    "probe": "ridge on the tracker's outputs, same 240",
    "map_only": "the frozen tracker as it is",
    "majority": "always the commonest label",
    "random_source": "ours on a tracker of random weights",
}


def pitch() -> str:
    """Accuracy of every method of the speech demo, with the hum and without."""
    found = result("pitch")
    settings = found["settings"]
    rows = {(r["task"].rpartition(", ")[2], r["method"]): r for r in found["rows"] if r["metric"] == "accuracy"}

    def shown(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        span = "" if row["low"] == row["high"] else f" ({row['low']:.1f} to {row['high']:.1f})"
        return f"{row['value']:.1f}{span}"

    lines = ["| synthetic tones, frozen CREPE-tiny, 12 pitch classes | under the hum | clean |", "|---|--:|--:|"]
    for task, method in rows:
        if task == "hum":
            cells = [shown(rows.get((task, method))) for task in ("hum", "clean")]
            lines.append(f"| {PITCH[method]} | {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\n{len(found['seeds'])} draws of frames to learn from (lowest to highest where they differ), "
        f"{settings['test_rows']} held-out ones on which nothing was chosen; `{found['command']}` at "
        f"{found['commit'][:12]}. `make demo` is draw 0."
    )


MEANS = {
    "ours": "ours",
    "calibrated": "label words, calibrated",
    "probe": "probe of the same model",
    "probe:minilm": "probe of MiniLM-L6",
}
FEW_SHOT = {
    "ours": "ours: 10 vectors on frozen SmolLM2-135M",
    "peft_prompt_tuning": "PEFT prompt tuning, same label words and rows, best of 4 rates",
    "calibrated": "its label words, calibrated, no training",
    "zero_shot": "its label words, raw, no training",
    "probe": "linear probe of its states",
    "probe:joined": "linear probe of its states, rows joined as for ours",
    "probe:minilm": "linear probe of MiniLM-L6's states",
    "probe:minilm_joined": "linear probe of MiniLM-L6's states, rows joined",
    "classical:all": "TF-IDF + logistic regression on the whole training set",
    "classical:few": "TF-IDF + logistic regression on the same rows",
    "random_source": "ours on a model of random weights",
    "majority": "always the commonest label",
}
TASKS = {"sst2": "SST-2", "trec": "TREC", "mpqa": "MPQA", "mr": "MR", "ag_news_10k": "AG News"}
Found = dict[tuple[str, str, str], dict[str, Any]]  # (task, method, metric) -> row


def few_shot(found: dict[str, Any] | None) -> str:
    """Mean accuracy of every method by task and rows per class, what ours gains, and what is above it."""
    if found is None:
        return "Not measured yet."
    rows: Found = {(r["task"], r["method"], r["metric"]): r for r in found["rows"]}
    columns = {
        f"{task}, {shots} per class": f"{name}, {shots}" for task, name in TASKS.items() for shots in (4, 16, 64)
    }
    columns = {table: head for table, head in columns.items() if (table, "ours", "accuracy") in rows}
    lines = [
        f"| accuracy; labelled rows per class | {' | '.join(columns.values())} |",
        "|---|" + "--:|" * len(columns),
    ]
    for method, text in FEW_SHOT.items():
        reached = [rows.get((table, method, "accuracy")) for table in columns]
        if any(reached):
            lines.append(f"| {text} | {' | '.join(_value(row) for row in reached)} |")
    told = [_gains(rows, table, head) for table, head in columns.items()]
    planned = dict.fromkeys(table.partition(":")[0] for table in found["settings"]["tables"])
    missing = [table for table in planned if (table, "ours", "accuracy") not in rows]
    told += [f"- Planned and not measured yet: {'; '.join(missing)}."] if missing else []
    return "\n".join([*lines, "", *told]) + (
        "\n\nThe labelled rows choose everything; the test rows choose nothing but PEFT's rate, in its favour. "
        f"`{found['command']}` at {found['commit'][:12]}."
    )


def few_shot_mean(*found: dict[str, Any] | None) -> str:
    """Means over all tasks that have a number for every method."""
    rows = [row for each in found if each for row in each["rows"] if row["metric"] == "accuracy"]
    told = []
    for shots in (4, 16, 64):
        by = {m: {r["task"]: r["value"] for r in rows if r["method"] == m} for m in MEANS}
        tasks = [t for t in by["ours"] if t.endswith(f", {shots} per class") and all(t in by[m] for m in MEANS)]
        means = [f"{text} {sum(by[m][t] for t in tasks) / len(tasks):.1f}" for m, text in MEANS.items() if tasks]
        told += [f"- {shots} rows per class, mean of {len(tasks)} tasks: {', '.join(means)}."] if tasks else []
    return "\n".join(told)


def _value(row: dict[str, Any] | None) -> str:
    return f"{row['value']:.1f}" if row else ""


def _gains(rows: Found, table: str, head: str) -> str:
    """What ours gains in one column with 95 % intervals: above it, below it, or not to be told apart."""
    draws = rows[table, "ours", "accuracy"]["n"]
    above, level, below = [], [], []
    for method, text in FEW_SHOT.items():
        gain = rows.get((table, "ours", f"accuracy_gain_over:{method}"))
        if gain is None or method in ("majority", "zero_shot", "classical:few"):
            continue
        name = text.replace("its ", "SmolLM2's ").partition(", same")[0]
        fewer = f", draws {gain['n']}" if gain["n"] != draws else ""
        told = f"{name} {gain['value']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f}{fewer})"
        (above if gain["low"] > 0 else below if gain["high"] < 0 else level).append(told)
    parts = [f"{head} per class, {draws} draws. Ours gains over: {'; '.join(above) or 'nothing'}"]
    parts += [f"Not to be told apart: {'; '.join(level)}"] if level else []
    parts += [f"**Better than ours: {'; '.join(below)}**"] if below else []
    return f"- {'. '.join(parts)}."


SPEECH = {
    "map_only:token logits": "Moonshine-tiny, 32,768 logits of the first token",
    "map_only:encoder mean": "Moonshine-tiny, mean of its encoder",
    "map_only:encoder mean and deviation": "Moonshine-tiny, mean and deviation of its encoder",
    "map_only:whisper token logits": "Whisper-tiny.en on a second, logits of the first token",
    "map_only:whisper encoder mean": "Whisper-tiny.en on a second, mean of its encoder",
    "map_only:whisper encoder mean and deviation": "Whisper-tiny.en on a second, mean and deviation",
    "map_only:spotter 36 logits": "attention-RNN, its 36 outputs",
    "map_only:spotter attention's vector of 128": "attention-RNN, its attention's vector",
    "classical:log-mel": "log-mels + logistic regression, no model",
    "random_source:token logits": "Moonshine of random weights, logits of the first token",
    "random_source:encoder mean": "Moonshine of random weights, mean of its encoder",
    "random_source:encoder mean and deviation": "Moonshine of random weights, mean and deviation",
    "random_source:spotter 36 logits": "attention-RNN of random weights, its 36 outputs",
    "random_source:spotter attention's vector of 128": "attention-RNN of random weights, its attention's vector",
    "majority": "always the commonest label",
}
CLIPS = {
    "arabic-40": "40 Arabic",
    **{f"arabic-40, {shots} per class": f"{shots} clip{'s' * (shots > 1)} of each" for shots in (5, 2, 1)},
    "ar-scr, 4 kHz band": "16 Arabic",
    "gsc12": "12 English",
    "fsdd": "10 digits",
}


def speech() -> str:
    """Mean accuracy of every map by task, what it gains over the controls, and what an added sound does."""
    found = result("speech_commands")
    rows: Found = {(r["task"], r["method"], r["metric"]): r for r in found["rows"]}
    lines = [f"| a linear map, no program | {' | '.join(CLIPS.values())} |", "|---|" + "--:|" * len(CLIPS)]
    for method, text in SPEECH.items():
        reached = [rows.get((task, method, "accuracy")) for task in CLIPS]
        if any(reached):
            lines.append(f"| {text} | {' | '.join(_value(row) for row in reached)} |")
    told = []
    for (task, method, metric), row in rows.items():
        control = metric.partition("accuracy_gain_over:")[2]
        chosen = "map_only:encoder mean" + (" and deviation" if "per class" in task else "")
        if task in CLIPS and method == chosen and control:
            told.append(f"{CLIPS[task]}: over {SPEECH[control]} {_spanned(row, '+')}")
    words = [rows["gsc12, ten words", method, "accuracy"] for method in ("zero_shot", "calibrated")]
    lengths = [r for r in found["rows"] if r["metric"] == "accuracy" and r["method"].startswith("map_only:whisper")]
    second, half_minute = (next(r for r in lengths if r["method"].endswith(f", {n} s")) for n in (1, 30))
    lines += [
        "",
        f"Moonshine's encoder, gains with 95 % intervals. {'; '.join(told)}.",
        "",
        f"Untaught, ten English words by Moonshine's own label words: raw {_spanned(words[0])}, calibrated on "
        f"unlabelled clips {_spanned(words[1])}.",
        "",
        f"Whisper-tiny.en on a canvas of one second {_spanned(second)}, on its own half minute "
        f"{_spanned(half_minute)}: mean and deviation over time, 40 Arabic commands from two clips of each, three "
        "test clips of each. On the half minute they are mostly of the silence behind the clip.",
        "",
        f"`{found['command']}` at {found['commit'][:12]}.",
    ]
    return "\n".join(lines)


def speech_program() -> str:
    """What an added sound does to its own map, on the spotter and on random weights."""
    if not (RESULTS / "speech_program.json").is_file():
        return "Planned and not measured yet: `python scripts/benchmarks/speech_program.py`."
    found = result("speech_program")
    rows = {(r["method"], r["metric"]): r for r in found["rows"]}
    lines = ["| attention-RNN, 16 Arabic commands | map of 36 outputs alone | with a learned sound |", "|---|--:|--:|"]
    for text, random in (("pretrained", ""), ("random weights", "random_source:")):
        values = [_value(rows.get((f"{random}{method}", "accuracy"))) for method in ("map_only", "ours")]
        lines.append(f"| {text} | {' | '.join(values)} |")
    told = {"map_only": "its map alone", "random_source:ours": "the same on random weights"}
    gains = [(rows.get(("ours", f"accuracy_gain_over:{other}")), text) for other, text in told.items()]
    shown = "; ".join(f"{text} {_spanned(row, '+')}" for row, text in gains if row)
    claimed = (rows["ours", "accuracy_gain_over:random_source:ours"]["low"] or 0) > 0
    shown += ", whose interval is above zero" if claimed else ", so that no gain of pretraining is claimed"
    seeds = rows["ours", "accuracy"]["n"]
    return "\n".join(
        [*lines, "", f"Seeds {seeds}. The sound gains over {shown}. `{found['command']}` at {found['commit'][:12]}."]
    )


HEARD = {
    "map_only": "no program",
    "ours:equaliser": "`waveform_fir` as an equaliser, no labels, no training",
    "ours:equaliser and shift": "the same and `latent_shift`, taught",
    "ours:filter": "`waveform_fir`, taught",
    "ours:shift": "`latent_shift` before six layers, taught",
    "ours:network": "`waveform_conv`, taught",
    "classical:equaliser": "an equaliser of 128 bands, no program",
    "random_source:equaliser and shift": "filter and shift, taught on random weights",
}
JOINT = {"shift": "`latent_shift`", "frames": "`latent_insert`"}
WORDS = "gsc12, ten words, {}"
OVER = "accuracy_gain_over:{}"
SHOTS = (1, 2, 5)


def speech_input() -> str:
    """Programs before clips of a channel, beside the map alone and the controls; the same before Arabic clips."""
    if not (RESULTS / "speech_input.json").is_file():
        return "Planned and not measured yet: `python scripts/benchmarks/speech_input.py`."
    found = result("speech_input")
    rows: Found = {(r["task"], r["method"], r["metric"]): r for r in found["rows"]}
    table = [_heard(rows, text, method, "muffled") for method, text in HEARD.items()]
    table.append(_heard(rows, "no program, the same clips not muffled", "map_only", "clean"))
    told = [_heard_gains(rows, method, text) for method, text in HEARD.items()]
    told += [
        _over(
            rows,
            "arabic-40, 2 per class, clean",
            f"ours:{way} and map",
            "map_only",
            f"- {text}, taught with the map on two Arabic clips of each that were not muffled, over the map alone",
        )
        for way, text in JOINT.items()
    ]
    return "\n".join(
        [
            "| muffled clips | 10 English, label words | 10 English, a ridge | 40 Arabic, 1 clip of each | 2 | 5 |",
            "|---|--:|--:|--:|--:|--:|",
            *filter(None, table),
            "",
            "Gains with 95 % intervals:",
            "",
            *filter(None, told),
            "",
            f"Seeds {rows[WORDS.format('muffled'), 'map_only', 'accuracy']['n']}. `{found['command']}` at "
            f"{found['commit'][:12]}.",
        ]
    )


def _heard(rows: Found, text: str, method: str, channel: str) -> str | None:
    """A line of the table: one program, or none, by what is read; None where nothing is measured."""
    ours = method.startswith("ours:")
    english = (method, "probe" if method == "map_only" else f"{method} + probe")
    places = [(WORDS.format(channel), m) for m in english]
    places += [(f"arabic-40, {n} per class, {channel}", f"{method} of English" if ours else method) for n in SHOTS]
    values = [_value(rows.get((*place, "accuracy"))) for place in places]
    return f"| {text} | {' | '.join(values)} |" if any(values) else None


def _heard_gains(rows: Found, method: str, name: str) -> str | None:
    """What a program adds to the map alone and to the controls, there and before Arabic."""
    controls = {
        "map_only": "the words alone",
        "probe": "the ridge",
        "classical:equaliser": "the equaliser of 128 bands",
        "ours:equaliser": "the filter as an equaliser",
        f"random_source:{method.partition(':')[2]}": "the same on random weights",
    }
    told = [_over(rows, WORDS.format("muffled"), method, other, f"over {text}") for other, text in controls.items()]
    arabic = [(f"arabic-40, {n} per class, muffled", f"Arabic, {n} of each, over no program") for n in SHOTS]
    told += [_over(rows, task, f"{method} of English", "map_only", text) for task, text in arabic]
    shown = "; ".join(filter(None, told))
    return f"- {name}: {shown}." if shown else None


def _over(rows: Found, task: str, method: str, other: str, text: str) -> str | None:
    row = rows.get((task, method, OVER.format(other)))
    return f"{text} {_spanned(row, '+')}" if row else None


def _spanned(row: dict[str, Any], sign: str = "") -> str:
    return f"{row['value']:{sign}.1f} ({row['low']:{sign}.1f} to {row['high']:{sign}.1f})"


COSTS = {
    "step_ratio_to_floor": "training step, against a bare frozen forward and input gradient",
    "flops_ratio_to_body_forward": "FLOPs of a step, against one forward of the body",
    "saved_bytes_ratio_to_floor": "activations kept for backward, against the bare loop",
    "eight_programs_ratio_to_one": "eight programs in one batch, against one program",
    "trainer_overhead_ms": "what Trainer adds to a step of the bare loop, CPU ms",
    "load_ms": "load a program onto a resident base, ms",
    "switch_ms": "switch programs, ms",
}


def speed() -> str:
    """Ours beside PEFT's prompt tuning and LoRA: the first measurement of each metric."""
    found = result("speed")
    methods = ("ours", "peft_prompt_tuning", "lora")
    lines = ["| whole SmolLM2-135M, one CPU thread | ours | PEFT prompt tuning | LoRA |", "|---|--:|--:|--:|"]
    for metric, text in COSTS.items():
        values = []
        for method in methods:
            row = next((r for r in found["rows"] if (r["method"], r["metric"]) == (method, metric)), None)
            values.append(f"{row['value']:.3g}" if row else "")
        if not any(values):
            continue  # not measured yet
        lines.append(f"| {text} | {' | '.join(values)} |")
    return "\n".join(lines) + (
        "\n\nThe gain is in what is not computed: only the answer's position and the label words' rows go through the "
        f"vocabulary. LoRA read in the same way costs the same. `{found['command']}` at {found['commit'][:12]}."
        + ratios("speed_sharing", "What rows have in common is computed once", COSTS_SHARED)
        + ratios("speed_maps", "A mapping is fitted on what was read once", COSTS_OF_MAPS)
        + ratios(
            "speed_sound", "On models that hear, a wave and a linear map against the same bare loop", COSTS_OF_SOUND
        )
    )


COSTS_OF_SOUND = {
    "step_ratio_to_floor": "a step on {}",
    "mapping_fits_ratio_to_floor": "100 fits and their one pass on {}",
}
COSTS_OF_MAPS = {"mapping_fits_ratio_to_floor": "100 fits on {}, against one pass and 100 bare fits:"}
COSTS_SHARED = {
    "shared_prefix_ratio_to_text_only": "serving with {} takes this part of what the texts alone take:",
    "shared_prefix_ratio_to_whole": "of what it takes with nothing shared:",
    "suffix_step_ratio_to_floor": "a training step with {}, from the second epoch on, against a bare loop over kept "
    "keys and values:",
    "suffix_step_ratio_to_whole": "against the same step with nothing kept:",
}


def ratios(name: str, lead: str, told: dict[str, str]) -> str:
    """A sentence of our ratios in a table of results, each with what it was measured on; none before there are any."""
    if not (RESULTS / f"{name}.json").is_file():
        return ""
    found = result(name)
    shown = [
        f"{told[row['metric']].format(row['task'].split(', ')[1])} {row['value']:.3g}"
        for row in found["rows"]
        if row["method"] == "ours" and row["metric"] in told
    ]
    return f"\n\n{lead}: {'; '.join(shown)}. `{found['command']}` at {found['commit'][:12]}."


def recipe() -> str:
    """The demo's recipe as it is, without its comments at the top."""
    text = (ROOT / "scripts" / "recipes" / "demo.yaml").read_text()
    return "```yaml\n" + "\n".join(line for line in text.splitlines() if not line.startswith("#")).strip() + "\n```"


def fill(text: str, mark: str, content: str) -> str:
    """Put `content` between the marks `<!-- mark -->` and `<!-- /mark -->`."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"make_docs: no <!-- {mark} --> in {README}")
    return pattern.sub(lambda m: f"{m.group(1)}{content}\n{m.group(2)}", text)


def render(text: str) -> str:
    """The README with its generated parts made anew."""
    for mark, content in (
        ("methods", methods()),
        ("families", families()),
        ("recipe", recipe()),
        ("demo", reviews()),
        ("pitch", pitch()),
        ("few_shot", few_shot(result("few_shot"))),
        ("few_shot_curve", few_shot(maybe("few_shot_curve"))),
        ("few_shot_mean", few_shot_mean(result("few_shot"), maybe("few_shot_curve"))),
        ("language", language(maybe("language"), every("language_"))),
        ("sequences", sequences(every("sequences"))),
        ("remap", remap(maybe("remap"))),
        ("maps", maps(maybe("mapping_study"))),
        ("programs", under_programs(every("mapping_programs"))),
        ("select", chosen(maybe("select_study"))),
        ("blackbox", blackbox(every("blackbox"))),
        ("infilling", infilling(every("infilling"))),
        ("speech", speech()),
        ("speech_program", speech_program()),
        ("series", series(result("voice2series"), maybe("voice2series_parity"))),
        ("speech_input", speech_input()),
        ("speed", speed()),
        ("distill", distilled(maybe("distill"))),
    ):
        text = fill(text, mark, content)
    return text


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the README is up to date")
    check = parser.parse_args().check
    old = README.read_text()
    new = render(old)
    if not check:
        README.write_text(new)
    elif new != old:
        print("make_docs: README.md is not up to date; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
