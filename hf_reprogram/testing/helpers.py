"""What the checks share: rows, a built model, one step, scores of one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import ReprogramConfig
from ..model import ReprogramModel, get_reprogram_model
from .audio import AUDIO_ROWS
from .models import tiny


LABELS = ["negative", "positive"]
ROWS = [
    {"text": "this film was so good", "label": "positive"},
    {"text": "my phone broke", "label": "negative"},
    {"text": "i love this book and would buy it again", "label": "positive"},
    {"text": "terrible", "label": "negative"},
    {"text": "it works fine but i like that", "label": "positive"},
    {"text": "never again this was a bad day", "label": "negative"},
]


def rows_of(model: ReprogramModel) -> list[dict[str, Any]]:
    """Rows that a model can take: `ROWS`, or `AUDIO_ROWS` for one that hears; with numbers where it tells numbers."""
    rows = AUDIO_ROWS if model.backbone.modality == "audio" else ROWS
    if model.problem_type() != "regression":
        return rows
    return [{**row, "label": float(i)} for i, row in enumerate(rows)]


def unlabelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without their targets."""
    return [{k: v for k, v in row.items() if k != "label" and not (k == "text" and "audio" in row)} for row in rows]


def build(config: ReprogramConfig, family: str) -> ReprogramModel:
    """A model of a tiny base with the config on it, its mapping fitted where it needs that."""
    base, tokenizer = tiny(family)
    model = get_reprogram_model(base, config, processing_class=tokenizer)
    if model.active_mapping().needs_fit:
        model.fit_mapping(rows_of(model))
    return model


def state_hash(module: torch.nn.Module) -> int:
    """A number that changes with any byte of a module's state."""
    return hash(tuple((k, v.numpy().tobytes()) for k, v in module.state_dict().items()))


def flags(base: torch.nn.Module) -> list[Any]:
    """What a base shows of itself besides its numbers: module tree, hooks, gradient and training flags.

    Not the hooks by which transformers itself records hidden states: it sets them in any model's first forward.
    """

    def hooks(module: torch.nn.Module) -> int:
        return sum("output_capturing" not in hook.__module__ for hook in module._forward_hooks.values())

    tree = [(name, type(m).__name__, m.training, hooks(m)) for name, m in base.named_modules()]
    return [tree, [(name, p.requires_grad) for name, p in base.named_parameters()]]


def logits_of(model: ReprogramModel, rows: list[dict[str, Any]]) -> Tensor:
    """Logits of some rows in one pass, in their order, no sorting; where texts are written, of the rows' own texts."""
    collator, texts = model.collator(), model.problem_type() == "transcription"
    with torch.no_grad():
        return outputs(model(**collator.stack(collator.lay_out(rows, labelled=texts))))


def stacked(parts: list[Tensor]) -> Tensor:
    """Logits of single rows as those of one batch: what a shorter text lacks is 0."""
    width = max(p.shape[1] for p in parts)
    return torch.cat([p if p.ndim > 2 else torch.nn.functional.pad(p, (0, width - p.shape[1])) for p in parts])


def same_texts(a: list[dict[str, Any]], b: list[dict[str, Any]], what: str) -> None:
    """Raise where answers differ in their texts, or in their scores by more than 1e-5."""
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        same = one["text"] == other["text"] and abs(one["score"] - other["score"]) <= 1e-5
        assert same, f"{what}: answer {i} is {one} here, {other} there"


def outputs(found: Any) -> Tensor:
    """The logits of a forward, or a bare model's states."""
    return found.logits if "logits" in found else found.last_hidden_state


def _gap(a: Tensor, b: Tensor) -> float:
    a, b = a.nan_to_num(neginf=-1e4), b.nan_to_num(neginf=-1e4)
    return (a - b).abs().max().item()


def close(a: Tensor, b: Tensor, limit: float, what: str) -> None:
    """Raise where two tensors differ in shape, or by more than `limit`; names what and how much.

    Where the largest number is above one, as of the log-probabilities of texts, it may differ by as much more.
    """
    gap = _gap(a, b) if a.shape == b.shape else float("nan")
    limit *= max(1.0, b.nan_to_num(neginf=0.0).abs().max().item())
    assert gap <= limit, (
        f"{what}: difference {gap:.3g} of shapes {tuple(a.shape)}, {tuple(b.shape)}; allowed {limit:g}"
    )


def fit(model: ReprogramModel) -> None:
    """Fit the active mapping where it needs that."""
    if model.active_mapping().needs_fit:
        model.fit_mapping(rows_of(model))


def loss_of(model: ReprogramModel, rows: list[dict[str, Any]], num_items: Tensor | None = None) -> Tensor:
    """The loss of some rows; without a mapping, a smooth function of all outputs."""
    if model.active_mapping().options.type == "none":
        columns = model.collator()(unlabelled(rows))
        logits = outputs(model(**columns))
        # No mapping means no target: any smooth function of all outputs shows whether gradients flow.
        return logits.float().square().mean()
    return model(**model.collator()(rows), num_items_in_batch=num_items).loss


def train_step(model: ReprogramModel) -> None:
    """One large step of plain SGD on all that trains."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if parameters:
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        model.train()
        loss_of(model, rows_of(model)).backward()
        optimizer.step()
        model.zero_grad()
        model.eval()


def pad_more(columns: dict[str, Tensor], n: int, side: str, kind: str) -> dict[str, Tensor]:
    """The same rows with n more positions of padding in the whole batch, all padding on one side."""
    own = columns["input_ids"].shape
    width = own[1] + n
    answers = columns["answer_index"].clone() if "answer_index" in columns else None
    told = {k: columns[k] for k in ("answer_ids", "labels") if k in columns}  # as long as the texts are
    along = {k: v for k, v in columns.items() if v.shape == own and k not in ("answer_index", *told)}
    made = {k: torch.full((len(v), width), -1 if k.endswith("_index") else 0) for k, v in along.items()}
    for i, mask in enumerate(columns["attention_mask"].bool()):
        length = int(mask.sum())
        start = width - length if side == "left" else 0
        for key, tensor in made.items():
            tensor[i, start : start + length] = columns[key][i][mask]
        if answers is not None and kind != "seq2seq":
            shift = start - int(mask.int().argmax())
            answers[i] = torch.where(answers[i] < 0, answers[i], answers[i] + shift)
    return made | told if answers is None else made | told | {"answer_index": answers}
