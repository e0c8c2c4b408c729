"""make_trainer: the ordinary Trainer with the collator, rates per part, buckets and estimation filled in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import has_length

from ..data.rows import check_frame, label_columns, undecoded
from ..data.targets import asking
from ..errors import DataError, UsageError
from ..features import FrozenRows
from .cache import FrozenCollator, frozen
from .estimation import Refit, estimate, refits
from .sampling import LengthBuckets
from .watch import Watch


class ReprogramTrainer(Trainer):
    """Trainer with batches of rows of like length, one rate per part, and a word on whether the program moves.

    Args:
        features: what integer labels of the training rows stand for.
        args, kwargs: Trainer's.
    """

    def __init__(self, *args: Any, features: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.features, self.watch = features, Watch(self.model)
        if refits(self.model):
            self.add_callback(Refit(self.model, self.train_dataset, features))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; first the mapping is estimated where it needs that (a checkpoint brings its own)."""
        self._compare_ranks()
        if not resume_from_checkpoint:
            # Before Trainer wraps the model: parameters that are set later, DDP would not carry to the other ranks.
            estimate(self.model, self.train_dataset, self.features)
        try:
            return super().train(resume_from_checkpoint, **kwargs)
        finally:
            self.model.backbone.forget()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; masks that the collator draws are the same at each, and training draws on as before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed)
            return super().evaluation_loop(*args, **kwargs)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        """Trainer's; rows are judged as `model.evaluate` judges them, not as they are learned from."""
        with self._asking():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        """The same."""
        with self._asking():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        own = self.data_collator
        self.data_collator = asking(own)
        try:
            yield
        finally:
            self.data_collator = own

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """One parameter group per part. Made here and not handed over, which Trainer refuses under FSDP."""
        if self.optimizer is None:
            given = self.optimizer_cls_and_kwargs
            cls, options = given or self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls(parameter_groups(self.model, self.args), **options)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; beside every evaluation stands what the program's gradient was and how far it has moved."""
        if any(name.startswith("eval_") and name.endswith("_loss") for name in logs):
            logs.update(self.watch.numbers())
        super().log(logs, start_time)

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """Trainer's; what is wrong with a row says that it is counted within its batch, which was drawn at random."""
        try:
            return super().get_batch_samples(*args)
        except DataError as error:
            counted = "rows[...] counts within one batch, not within train_dataset"
            fix = f"{error.fix}; {counted}" if error.fix else counted
            raise DataError(error.where, error.what, error.expected, fix) from None

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        total = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.watch.feel(total)
        return total

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        fixed = getattr(self.data_collator, "one_length", True)  # a collator of the user's own says nothing of lengths
        if self.args.train_sampling_strategy not in ("random", "group_by_length") or not has_length(rows) or fixed:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        known = isinstance(rows, FrozenRows)
        lengths = rows.lengths if known else [len(row) for row in self.data_collator.lay_out(rows)]
        return LengthBuckets(lengths, size, seed, epoch=lambda: int(self.state.epoch or 0))

    def _compare_ranks(self) -> None:
        """Raise where ranks hold different numbers of rows: one would wait for ever for the steps of another."""
        if self.args.world_size == 1:
            return
        own = tuple(len(rows) if has_length(rows) else None for rows in (self.train_dataset, self.eval_dataset))
        found: list[Any] = [None] * self.args.world_size
        torch.distributed.all_gather_object(found, own)
        for name, lengths in zip(("train_dataset", "eval_dataset"), zip(*found, strict=True), strict=True):
            if len(set(lengths)) > 1:
                what = f"has {lengths} rows on the ranks"
                raise UsageError(name, what, "the same rows on all: Trainer deals them out")


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
    the mapping before the first step; the metrics of the problem type; gradient and movement of the program beside
    every evaluation. Where only a mapping trains, the frozen model runs once over the rows, and every step is the
    mapping's alone.

    Args:
        model: from `get_reprogram_model`.
        args: with `remove_unused_columns=False`. Where the dataset is a stream its `accelerator_config` is told that
            each rank reads for itself; where one program trains, DDP is told to look for no unused parameters.
        train_dataset, eval_dataset: dict rows, a `datasets.Dataset`, or `model.frozen_rows(rows)`; to learn from also
            a stream, with `max_steps`.
        features: what integer labels stand for; taken from the dataset where it has features.
        cache, rebuild: a folder that keeps the frozen model's features of the training rows, as for `fit_mapping`;
            None keeps them in memory.
        kwargs: for Trainer.

    Raises:
        UsageError: `remove_unused_columns` is true, nothing trains, a stream has no `max_steps`, or smoothed labels
            would lose class weights or the kind of targets.
    """
    _check_rows(train_dataset)
    _settle(model, args, streams=not has_length(train_dataset))
    if "optimizers" not in kwargs:
        parameter_groups(model, args)  # raises here, not at the first step, where nothing trains
    train_dataset = undecoded(train_dataset)
    eval_dataset = eval_dataset if isinstance(eval_dataset, dict) else undecoded(eval_dataset)
    features = features if features is not None else getattr(train_dataset, "features", None)
    own = kwargs.get("data_collator")
    collator = own or model.collator(features=features)
    if own is None and has_length(train_dataset):
        _check_labelled(model, collator, train_dataset)
    rows = None if own else frozen(model, collator, train_dataset, cache, rebuild)
    if rows is not None:
        train_dataset, eval_dataset = rows, _frozen_too(model, collator, eval_dataset)
        collator = FrozenCollator(collator)
    kwargs["data_collator"] = collator
    mapping = model.active_mapping()
    kwargs.setdefault("compute_metrics", lambda found: mapping.measures(found.predictions, found.label_ids))
    return ReprogramTrainer(
        model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, features=features, **kwargs
    )


def _settle(model: Any, args: TrainingArguments, streams: bool) -> None:
    """Refuse arguments that cannot be meant, and fill in what follows from the model and the kind of rows."""
    if args.remove_unused_columns:
        raise UsageError("TrainingArguments.remove_unused_columns", "True, which drops the rows' columns", "False")
    _check_smoothing(model, args)
    if streams:
        _check_stream(model, args)
        if args.accelerator_config.dispatch_batches is None:
            args.accelerator_config.dispatch_batches = False  # batches of rank 0, padded apart, would not stack (N20)
    if args.ddp_find_unused_parameters is None and len(model.peft_config) == 1:
        args.ddp_find_unused_parameters = False  # one program: each parameter is used in each pass


def _check_rows(rows: Any) -> None:
    """Raise for what holds no rows, before Trainer fails on it in words of its own."""
    check_frame(rows, "train_dataset")
    if not isinstance(rows, Iterable | torch.utils.data.Dataset):
        raise DataError(
            "train_dataset", f"{rows!r} is a {type(rows).__name__}"[:120], "dict rows, or a dataset of rows"
        )
    if has_length(rows) and not len(rows):
        raise DataError("train_dataset", "empty", "at least one row: rows to learn from")


def _check_labelled(model: Any, collator: Any, rows: Any) -> None:
    """Raise where the first row has no label: Trainer would only say that the model gave no loss."""
    if not isinstance(rows, FrozenRows) and collator.lay_out([rows[0]])[0].label is None:
        column = label_columns(model.problem_type(), model.backbone.modality == "audio")[0]
        raise DataError("train_dataset[0]", f"has no {column}", f'a "{column}" column on every row')


def _check_smoothing(model: Any, args: TrainingArguments) -> None:
    """Trainer's label smoothing puts its own loss in the place of the model's: what that knows would be lost."""
    if args.label_smoothing_factor:
        where = "TrainingArguments.label_smoothing_factor"
        if model.problem_type() != "single_label_classification":
            raise UsageError(where, f"{args.label_smoothing_factor} for {model.problem_type()}", "0")
        if model.active_mapping().class_weight is not None:
            raise UsageError(where, "given beside class_weight, which it would ignore", "one of the two")


def _check_stream(model: Any, args: TrainingArguments) -> None:
    if args.max_steps <= 0:
        raise UsageError(
            "TrainingArguments.max_steps", "not set, and train_dataset streams without a length", "a number of steps"
        )
    if model.active_mapping().needs_fit or refits(model):
        raise UsageError(
            "train_dataset",
            "streams, and the mapping is estimated from all rows",
            "rows with a length",
            "model.fit_mapping(list(stream.take(1000))) beforehand",
        )


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
        frozen, mapping = any(True for p in parts.values() for _ in p.parameters()), model.active_mapping()
        what = "nothing trains"
        if not frozen:
            kinds = " and ".join(part.options.type for part in parts.values())
            what = f"nothing trains: {kinds} have no parameters that learn by gradients"
        fix = "load it with is_trainable=True" if frozen else "give it a program"
        if not frozen and mapping.estimated != "never":
            fix = f"model.fit_mapping(rows): {mapping.options.type!r} is estimated, not trained"
        raise UsageError("model", what, "a program or mapping with parameters", fix)
    return groups
