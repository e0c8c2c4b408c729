"""make_trainer: the ordinary Trainer with the collator, rates per part, buckets and estimation filled in."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length

from ..data.rows import as_rows
from ..errors import UsageError
from ..features import FrozenRows
from ..metrics import metrics
from .cache import FrozenCollator, frozen
from .estimation import EstimationCallback


class ReprogramTrainer(Trainer):
    """Trainer whose training batches hold rows of like length (a third less padding: P§C)."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "random" or not has_length(rows):
            return super()._get_train_sampler(train_dataset)
        known = isinstance(rows, FrozenRows)
        lengths = rows.lengths if known else [len(row.ids) for row in self.data_collator.lay_out(rows)]
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths=lengths
        )


def make_trainer(
    model: Any,
    args: TrainingArguments,
    train_dataset: Any,
    eval_dataset: Any = None,
    features: Any = None,
    cache: Any = None,
    rebuild: bool = False,
    **kwargs: Any,
) -> Trainer:
    """A Trainer for a reprogrammed model.

    Fills in: the collator; one parameter group per part (program, mapping), each with its own default rate, where the
    arguments leave the rate at transformers' 5e-5, else all with the rate given; batches of like length; estimation of
    the mapping before the first step; the metrics of the problem type. Where only a mapping trains, the frozen model
    runs once over the rows, and every step is the mapping's alone.

    Args:
        model: from `get_reprogram_model`.
        args: with `remove_unused_columns=False`.
        train_dataset, eval_dataset: dict rows, a `datasets.Dataset`, or `model.frozen_rows(rows)`.
        features: what integer labels stand for; taken from the dataset where it has features.
        cache, rebuild: a folder that keeps the frozen model's features of the training rows, as for `fit_mapping`;
            None keeps them in memory.
        kwargs: for Trainer.

    Raises:
        UsageError: `remove_unused_columns` is true.
    """
    if args.remove_unused_columns:
        raise UsageError("TrainingArguments.remove_unused_columns", "True, which drops the text columns", "False")
    features = features if features is not None else getattr(train_dataset, "features", None)
    if "optimizers" not in kwargs and "optimizer_cls_and_kwargs" not in kwargs and args.deepspeed is None:
        cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
        kwargs["optimizers"] = (cls(parameter_groups(model, args), **options), None)
    kind = model.problem_type()
    own = kwargs.get("data_collator")
    collator = own or model.collator(features=features)
    rows = None if own else frozen(model, collator, train_dataset, cache, rebuild)
    if rows is not None:
        train_dataset, eval_dataset = rows, _frozen_too(model, collator, eval_dataset)
        collator = FrozenCollator(collator)
    kwargs["data_collator"] = collator
    kwargs.setdefault("compute_metrics", lambda found: metrics(found.predictions, found.label_ids, kind))
    trainer = ReprogramTrainer(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
    rows = as_rows(train_dataset, model.text_column()) if rows is None else rows
    trainer.add_callback(EstimationCallback(rows, features))
    return trainer


def _frozen_too(model: Any, collator: Any, rows: Any) -> Any:
    """Evaluation rows with the body run once; those that cannot be stay live, in the same Trainer."""
    if isinstance(rows, dict):
        return {name: _frozen_too(model, collator, part) for name, part in rows.items()}
    return rows if rows is None else frozen(model, collator, rows) or rows


def parameter_groups(model: Any, args: TrainingArguments) -> list[dict[str, Any]]:
    """One group per trained part: its parameters, rate, weight decay."""
    untouched = args.learning_rate == TrainingArguments.__dataclass_fields__["learning_rate"].default
    parts = {f"program.{i}": p for i, p in enumerate(model.active_programs())} | {"mapping": model.active_mapping()}
    rates = model.learning_rates()
    groups = []
    for name, part in parts.items():
        parameters = [p for p in part.parameters() if p.requires_grad]
        if parameters:
            rate = rates[name] if untouched else args.learning_rate
            groups.append({"params": parameters, "lr": rate, "weight_decay": args.weight_decay, "name": name})
    if not groups:
        raise UsageError(
            "model",
            "nothing trains",
            "a program or mapping with parameters",
            "load it with is_trainable=True; fit_mapping(rows) estimates a mapping without training",
        )
    return groups
