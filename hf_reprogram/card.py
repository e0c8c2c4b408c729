"""The model card of an artefact: complete, without placeholders, its snippet runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor

from .config import STARTED_AS, ReprogramConfig
from .metrics import BEST
from .registry import method_class
from .template import columns, parse


def model_card(
    config: ReprogramConfig, tensors: Mapping[str, Tensor], place: str, subfolder: str | None = None
) -> str:
    """The README.md of a saved program.

    Args:
        config: the program's config, resolved.
        tensors: what is saved beside it.
        place: what loads it: a repo id, or the name of its folder.
        subfolder: of that place.
    """
    base = " ".join((config.base_model_name_or_path or "").split())
    if os.path.isabs(base):
        base = os.path.basename(os.path.normpath(base))  # the rest says only how somebody's disk is laid out
    numbers, size = sum(t.numel() for t in tensors.values()), sum(t.nbytes for t in tensors.values())
    parts = [
        f"---\n{_metadata(config, subfolder or place)}\n---",
        f"# A program for {base or 'a frozen base'}",
        f"A *program* of `hf_reprogram`: {numbers:,} numbers ({size:,} bytes) that teach the "
        f"frozen model {_code(base) if base else 'it was trained on'} a new task without touching its weights.",
        _facts(config),
        _usage(config, place, subfolder),
        _evaluation(config),
        _training(config),
        _limits(config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# Metadata

# An owner and a name, as the Hub allows them.
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r".*\.(jsonl?|csv|tsv|txt|parquet|arrow)(\.\w+)?", re.IGNORECASE)


def _on_hub(name: Any) -> bool:
    """Whether a name can be one of the Hub: it refuses cards that name a local folder."""
    return isinstance(name, str) and bool(_REPO.fullmatch(name)) and not os.path.exists(name)


def _metadata(config: ReprogramConfig, name: str) -> str:
    """The YAML that the Hub reads, as huggingface_hub writes it."""
    base, record = config.base_model_name_or_path, config.training or {}
    tags = ["reprogramming", "frozen", *(p.type for p in config.programs), config.mapping.type]
    writes = config.problem_type == "transcription"
    hears = "automatic-speech-recognition" if writes else "audio-classification"
    fills = config.mapping.targets() is not None
    reads = "fill-mask" if fills else "text-generation" if writes else "text-classification"
    task = reads if config.canvas is None else hears
    values: dict[str, Any] = {}
    if _on_hub(base):
        values = {"base_model": base, "base_model_relation": "adapter"}
        tags.append(f"base_model:adapter:{base}")
    if config.labels or writes:
        values["pipeline_tag"] = task
    if isinstance(language := record.get("language"), str) and re.fullmatch("[a-z]{2,3}", language):
        values["language"] = language
    train = _data(record).get("train")
    if isinstance(train, str):
        train = re.sub(r" \[[^]]*\]$", "", train)  # a recipe's record names the split too
    if _on_hub(train) and not _FILE.fullmatch(train):
        values["datasets"] = [train]
    scores = _scores(record.get("metrics"))
    if scores and (config.labels or writes):
        data = train if isinstance(train, str) else "its own rows"
        values |= {
            "metrics": list(dict.fromkeys(_name(key)[0] for key in scores)),
            "model_name": name.split("/")[-1] or "program",
        }
        values["eval_results"] = [
            EvalResult(
                task_type=task,
                dataset_type=train if "datasets" in values else "custom",
                dataset_name=" ".join(data.split()),
                dataset_split=_split(record),
                metric_type=_name(key)[0],
                metric_name=_name(key)[1],
                metric_value=round(value, 6),
            )
            for key, value in scores.items()
        ]
    return ModelCardData(library_name="hf_reprogram", tags=tags, **values).to_yaml().strip()


# Markdown


def _cell(text: Any) -> str:
    """Text as one cell of a table: what would end the cell or the row is written out."""
    return str(text).replace("\n", "\\n").replace("|", "\\|")


def _code(text: str) -> str:
    """Text as code: fenced by one backtick more than stand in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _table(rows: Iterable[Iterable[Any]], head: Iterable[str] = ("", "")) -> str:
    head = list(head)
    rule = "|---|" + "|".join("--:" if name else "---" for name in head[1:]) + "|"
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


# Sections


def _facts(config: ReprogramConfig) -> str:
    rows: list[tuple[Any, Any]] = [
        ("program", f"`{p.type}` ({method_class('program', p.type).paper or 'control'})") for p in config.programs
    ]
    if config.canvas is not None:
        rows += [("canvas", config.canvas.shown())]
    elif config.layout():
        rows += [("template", _code(config.layout()))]
    rows += [("mapping", f"`{config.mapping.type}`")]
    if config.problem_type == "transcription":
        return _table([*rows, *([("symbols", _code(" ".join(config.labels)))] if config.labels else [])])
    for label in config.labels or []:
        words = getattr(config.mapping, "words", None)
        shown = ", ".join(_code(w) for w in words[label]) if isinstance(words, dict) else ""
        rows.append(("label", f"{label}{': ' + shown if shown else ''}"))
    return _table(rows)


def _literal(text: str) -> str:
    """Text in double quotes, as Python reads it; what cannot be printed (a folder's odd bytes) is written out."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _example(config: ReprogramConfig) -> str:
    """A text as the program takes it, as Python writes it: in its own symbols, with a mask where it fills masks."""
    symbols, text = config.target_symbols(), "Stopped working after a week."
    if symbols is not None:
        text = symbols.write(range(min(len(symbols.names), 6)))
    asked = config.mapping.targets() is not None and config.base_auto_class == "AutoModelForMaskedLM"
    space = "" if symbols is not None and not symbols.spaced else " "
    return _literal(text + space) + " + model.processing_class.mask_token" if asked else _literal(text)


def _usage(config: ReprogramConfig, place: str, subfolder: str | None) -> str:
    names = columns(parse(config.layout() or "{text}"))
    text = _example(config)
    row = "{" + ", ".join(f'"{n}": {text}' for n in names) + "}"
    if config.canvas is not None:  # a second of a tone: what it takes is a path too
        text = '{"audio": {"array": wave, "sampling_rate": 16000}}'
        call = f"wave = [math.sin(0.2 * i) for i in range({min(config.canvas.samples, 16000)})]  # or a path\n"
        verb = (
            "predict"
            if config.labels or config.problem_type == "transcription"
            else "generate"
            if "Seq2Seq" in config.base_auto_class
            else None
        )
        call += f"print(model.{verb}([{text}]))" if verb else f"print(model(**model.collator()([{text}])))"
    elif config.labels or config.problem_type == "transcription":
        call = f"print(model.predict([{text if len(names) == 1 else row}]))"
    elif config.base_auto_class == "AutoModelForMaskedLM":  # writes no text: its logits are what there is
        call = f"columns = model.collator()([{row}])\nprint(model(**columns).logits.shape)"
    else:
        call = f"print(model.generate([{row}], max_new_tokens=8))"
    given = f", subfolder={_literal(subfolder)}" if subfolder else ""
    # What the base was called is not known of one that was made, not loaded: then it must be given.
    processor = "tokenizer" if config.canvas is None else "processor"
    given += "" if config.base_model_name_or_path else f", base_model=base, processing_class={processor}"
    first = "" if config.canvas is None else "import math\n\n"
    return (
        f"## Use\n\n```python\n{first}import hf_reprogram as hr\n\n"
        f"model = hr.AutoReprogramModel.from_pretrained({_literal(place)}{given})\n{call}\n```\n\n"
        "PEFT's own loaders know this type of adapter after `import hf_reprogram`."
    )


def _limits(config: ReprogramConfig) -> str:
    chooses = config.labels and config.problem_type == "single_label_classification"
    processor = "tokenizer" if config.canvas is None else "feature extractor"
    always = " It answers with one of its labels whatever the row is." if chooses else ""
    return (
        f"## Limits\n\nIt works with exactly this base and {processor}: loading checks their fingerprints. Loading "
        "reads JSON and safetensors, and runs nothing of it. A program inherits what the base knows and gets wrong, "
        f"its biases included.{always} Compare it with a classical model on your own rows, and look at its errors, "
        "before anything depends on it."
    )


# The record of a run: all of it is optional, and what is not understood is shown as it is.

_METRICS = {  # ours: the Hub's name, and as people write it
    "macro_f1": ("f1", "macro F1"), "micro_f1": ("f1", "micro F1"), "mse": ("mse", "MSE"), "mae": ("mae", "MAE"),
    "r2": ("r_squared", "R²"), "pearson": ("pearsonr", "Pearson's r"),
    "cer": ("cer", "character errors"), "wer": ("wer", "word errors"),
}  # fmt: skip
_FRACTIONS = {"accuracy", "macro_f1", "micro_f1"}
_RATES = _FRACTIONS | {"cer", "wer"}  # of these two, above 1 is no percentage
_COUNTS = ("n", "test_rows")
_BASELINES = {
    "majority": "always the commonest label",
    "untrained": "the program before training",
    "classical": "a classical model of the rows, without the base",
    "zero_shot": "the label words, no training",
    "calibrated": "the label words, calibrated, no training",
    "probe": "linear probe of the frozen features",
    "map_only": "the mapping alone",
    "random_source": "the same on a base of random weights",
}


def _data(record: Mapping[str, Any]) -> dict[str, Any]:
    return data if isinstance(data := record.get("data"), dict) else {"train": data}


def _split(record: Mapping[str, Any]) -> str | None:
    metrics = record.get("metrics")
    split = metrics.get("split") if isinstance(metrics, dict) else None
    return split if isinstance(split, str) else None


def _name(metric: str) -> tuple[str, str]:
    """(the Hub's name of a metric, ours)."""
    return _METRICS.get(metric, (metric, metric))


def _scores(metrics: Any) -> dict[str, float]:
    """The numbers among a record's metrics, fractions as fractions: an accuracy above 1 is a percentage."""
    if not isinstance(metrics, dict):
        metrics = {"accuracy": metrics}
    numbers = {
        str(key): float(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and key not in _COUNTS
    }
    percent = any(numbers.get(key, 0) > 1 for key in _FRACTIONS)
    return {key: value / 100 if percent and key in _FRACTIONS else value for key, value in numbers.items()}


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if key in _RATES else f"{value:.4g}"


def _evaluation(config: ReprogramConfig) -> str:
    """Scores beside those of the baselines."""
    record = config.training or {}
    ours = _scores(record.get("metrics"))
    if not ours:
        return (
            "## Evaluation\n\nNot evaluated: no numbers are recorded with this program. `hf-reprogram train` records "
            "them beside their baselines; `model.evaluate(rows)` gives them for rows of yours."
        )
    baselines = record.get("baselines")
    rows, better = [("**this program**", *(_shown(key, value) for key, value in ours.items()))], []
    best, greater = BEST[config.problem_type]
    for name, found in (baselines if isinstance(baselines, dict) else {}).items():
        about, scores = _baseline(str(name)), _scores(found)
        if scores:
            rows.append((about, *(_shown(key, scores.get(key)) for key in ours)))
        if best in ours and best in scores and (scores[best] - ours[best]) * (1 if greater else -1) >= 0:
            better.append(about)
    verdict = "No baseline was recorded: know what a guess without the row reaches before trusting these numbers."
    if len(rows) > 1:
        verdict = f"No better in {_name(best)[1]} than: {'; '.join(better)}." if better else ""
    table = _table(rows, ["", *(_name(key)[1] for key in ours)])
    return "\n\n".join(part for part in ("## Evaluation", f"{_judged(record)}.", table, verdict) if part)


def _baseline(name: str) -> str:
    """A method's name in words; `METHOD:VARIANT` is one of several of its kind."""
    method, _, variant = name.partition(":")
    return _BASELINES.get(method, _code(name)) + (f" ({variant})" if variant and method in _BASELINES else "")


def _judged(record: Mapping[str, Any]) -> str:
    """Which rows were judged."""
    metrics, split = record["metrics"], _split(record)
    count = next((metrics[key] for key in _COUNTS if isinstance(metrics, dict) and key in metrics), None)
    where = _data(record).get("validation") if split == "validation" else None
    text = f"{count:,} rows" if isinstance(count, int) else "Rows that the record does not count"
    text += f" of the {split} part" if split else ""
    return text + (f" ({_code(where)})" if isinstance(where, str) else "")


def _training(config: ReprogramConfig) -> str:
    record = config.training or {}
    told = {STARTED_AS} | ({"metrics", "baselines"} if _scores(record.get("metrics")) else set())
    rows = [(_words(key), _plain(value)) for key, value in record.items() if key not in told]
    rows = [(key, value) for key, value in rows if value]
    return f"## Training\n\n{_table(rows)}" if rows else ""


def _words(key: Any) -> str:
    return str(key).replace("_", " ")


def _plain(value: Any) -> str:
    """A value of the record as people write it: `accuracy 0.875, rows 1000` for a dict."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {shown}" for key, v in value.items() if (shown := _plain(v)))
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
