"""A long instruction into a few slots: with slots, the base learns to predict what it does with the instruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup

from ..batch import Batch
from ..config import ReprogramConfig
from ..data.rows import as_rows
from ..data.text import LaidOut, Layout, TextCollator
from ..errors import BaseModelError, ConfigError, UsageError
from ..passes import above_zero, asleep, at_least_one
from ..processors import tokenizer_of
from ..programs.prompt import Prompt
from ..template import Slots, slot_groups
from ..wrap import note_start, seeded


PIECE = 2**24  # numbers of the largest (positions, vocabulary) that is made at once: 64 MB
LAST = 0.5  # weight of the last position, from which an answer is read, beside the mean over all
HELD_OUT = 48  # rows at most that are kept from training to measure, where none are given


def distill(
    model: Any,
    instruction: str,
    rows: Any,
    steps: int = 80,
    batch_size: int = 4,
    held_out: Any = None,
    learning_rate: float | None = None,
    seed: int = 0,
    restart: bool = True,
    progress: bool | None = None,
) -> dict[str, float]:
    """Teach the active program's slots to stand for an instruction: without labels, the base is its own teacher.

    Teacher: the frozen base on the template with the instruction as text in the place of the slots. Student: the
    slots there. Both read the same tokens after that place, and over these positions t

        loss = mean_t KL(teacher_t || student_t) + 0.5 mean over rows of the same at the last one,

    of next-token distributions over the whole vocabulary. The slots begin at the instruction's first tokens. AdamW,
    a rate that falls linearly to 0. The mapping is not used; it reads the taught slots as it would the instruction.

    Args:
        instruction: the text, of more tokens than there are slots.
        rows: texts or dict rows like those that will come; labels are not looked at.
        steps: of the optimiser.
        batch_size: rows per step.
        held_out: rows to measure on. None keeps a tenth of `rows` from training, 48 at most.
        learning_rate: None is each program's own.
        seed: of the order of rows and of which are held out.
        restart: begin at the instruction's tokens; False goes on from the slots as they are.
        progress: show a bar; None shows one after two seconds.

    Returns:
        On held-out rows, in nats and shares: `kl` and `agreement` (the same likeliest token) over all positions,
        `kl_last` and `agreement_last` at the last; the same `..._at_start`; `tokens` of the instruction, `slots`, and
        `n`, how many rows were measured.

    Raises:
        BaseModelError: a base that is no causal language model.
        ConfigError: an instruction too short for the slots or too long for the base, no `prompt` or several places
            for it.
        UsageError: a program that does not train or is disabled; numbers that cannot be meant.

    Source: prompt distillation as in 2206.11349 and, for the frozen base, T§7; gist tokens (2304.08467) tune the base.

    Example:

        >>> from hf_reprogram.testing import build
        >>> model = build(ReprogramConfig(program={"type": "prompt", "template": "{prompt:2} {text} it was"}), "llama")
        >>> texts = ["so good", "my phone broke", "a very bad day", "i love that book"]
        >>> found = model.distill("this is a review of the film", texts, steps=20, batch_size=2)
        >>> found["tokens"], found["slots"], found["kl"] < found["kl_at_start"]
        (7, 2, True)
    """
    _check(model)
    for name, value in {"steps": steps, "batch_size": batch_size}.items():
        at_least_one(f"distill({name})", value)
    if learning_rate is not None:
        above_zero("distill(learning_rate)", learning_rate, "a number above 0, or None: each program's own")
    lesson = lesson_of(model, instruction)
    given = as_rows(rows, model.text_column())
    for i, row in enumerate(given):
        if row.get("adapter") not in (None, model.active_name()):
            what = f"{row['adapter']!r}, and the active program is {model.active_name()!r}"
            raise UsageError(f"rows[{i}]['adapter']", what, "rows of the program that is taught", "set_adapter(name)")
    made = lesson.collator.lay_out(given, labelled=False)
    generator = seeded(seed, "distill(seed)")
    if held_out is None:
        made, kept = _set_aside(made, generator)
    else:
        kept = lesson.collator.lay_out(as_rows(held_out, model.text_column()), labelled=False)
    if restart:
        _begin(model, lesson.text, seed)
    before = measures(model, lesson, kept)
    _train(model, lesson, made, steps, batch_size, learning_rate, generator, progress)
    found = measures(model, lesson, kept)
    found |= {f"{key}_at_start": value for key, value in before.items()}
    found |= {"tokens": len(lesson.ids), "slots": lesson.slots, "n": len(kept)}
    config: ReprogramConfig = model.peft_config[model.active_name()]
    if restart:
        note_start(config, seed)
    config.training = {**(config.training or {}), "distilled": {"steps": steps, **found}}
    return found


@dataclass
class Lesson:
    """What is taught: rows are laid out with one slot for each token of the instruction, from which both the
    teacher's rows and the student's are made; so both are cut alike, and agree in every token but these."""

    text: str
    ids: list[int]
    slots: int
    collator: TextCollator

    def columns(self, made: Sequence[LaidOut], taught: bool) -> tuple[dict[str, Any], Tensor]:
        """Padded columns of the student's rows (`taught`) or the teacher's, and (batch, time) which positions count:
        those after the place, or the last one where nothing comes after it."""
        put = [self.collator.harmless] * self.slots if taught else self.ids
        numbers = list(range(self.slots)) if taught else [-1] * len(self.ids)
        rows, after = [], []
        for row in made:
            start, end = row.slots.index(0), row.slots.index(0) + len(self.ids)
            rows.append(
                LaidOut(None, row.ids[:start] + put + row.ids[end:], row.slots[:start] + numbers + row.slots[end:])
            )
            after.append(max(len(row) - end, 1))
        columns = self.collator.stack(rows)
        to_come = columns["attention_mask"].flip(1).cumsum(1).flip(1)  # of real positions, its own among them
        return columns, (columns["attention_mask"] > 0) & (to_come <= torch.tensor(after).unsqueeze(1))


def lesson_of(model: Any, instruction: str) -> Lesson:
    """The lesson that teaches an instruction to the active program.

    Raises:
        ConfigError: as `distill`.
    """
    if not isinstance(instruction, str) or not instruction.strip():
        raise ConfigError("distill(instruction)", f"{instruction!r}", "a text")
    instruction = instruction.strip(" ")  # what follows brings its own space
    tokenizer, whole = tokenizer_of(model.processing_class), model.collator()
    layout = whole.layouts[model.active_name()]
    groups = slot_groups(layout.pieces)
    if len(groups) != 1:
        what = f"{len(groups)} groups of slots in the template"
        raise ConfigError("distill", what, "one, where the instruction would stand", '"{prompt:8} {text}{answer}"')
    if layout.symbols is not None:
        raise ConfigError("distill", "rows in target symbols, which the base cannot read", "rows of its own language")
    ids = tokenizer(instruction, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= groups[0].count:
        what = f"{len(ids)} tokens, for {groups[0].count} slots"
        raise ConfigError("distill(instruction)", what, "more tokens than slots: as many save nothing", "fewer slots")
    pieces = tuple(Slots(0, len(ids)) if isinstance(piece, Slots) else piece for piece in layout.pieces)
    name = model.active_name()
    try:
        collator = TextCollator(tokenizer, {name: Layout(pieces)}, name, model.backbone.facts)
    except ConfigError as error:
        what = f"{len(ids):,} tokens leave no room for text in the base's {whole.limit:,} positions"
        raise ConfigError("distill(instruction)", what, "a shorter one, or a base with a longer context") from error
    return Lesson(instruction, ids, groups[0].count, collator)


def divergence(head: Any, student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of next-token distributions, in nats: two times (positions, dim) -> (positions,).

    No more of (positions, vocabulary) exists at once than `PIECE` numbers: where all of it is more, each piece is
    made again in backward.
    """
    parts = [*zip(_pieces(head, student), _pieces(head, teacher), strict=True)]
    if len(parts) == 1:
        return _divergence(head, *parts[0])
    return torch.cat([checkpoint(_divergence, head, *part, use_reentrant=False) for part in parts])


def _pieces(head: Any, states: Tensor) -> tuple[Tensor, ...]:
    return states.split(max(PIECE // head.size, 1))


def _divergence(head: Any, student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = (head.logits(head.transform(states), None).log_softmax(-1) for states in (student, teacher))
    return (theirs.exp() * (theirs - ours)).sum(-1)


@torch.no_grad()
def measures(model: Any, lesson: Lesson, made: Sequence[LaidOut], batch_size: int = 16) -> dict[str, float]:
    """`kl` and `agreement` over all positions that count, `kl_last` and `agreement_last` at the last of each row."""
    head, kl, same, last = model.backbone.head, [], [], []
    with asleep(model):
        for start in range(0, len(made), batch_size):
            student, teacher, ends = _both(model, lesson, made[start : start + batch_size])
            kl.append(divergence(head, student, teacher))
            for pair in zip(_pieces(head, student), _pieces(head, teacher), strict=True):
                ours, theirs = (head.logits(head.transform(states), None).argmax(-1) for states in pair)
                same.append((ours == theirs).float())
            last.append(ends)
    kl, same, last = torch.cat(kl), torch.cat(same), torch.cat(last)
    return {
        "kl": kl.mean().item(),
        "agreement": same.mean().item(),
        "kl_last": kl[last].mean().item(),
        "agreement_last": same[last].mean().item(),
    }


def _both(model: Any, lesson: Lesson, made: Sequence[LaidOut]) -> tuple[Tensor, Tensor, Tensor]:
    """(student's states, teacher's states (positions, dim), whether a position is the last of its row) of all
    positions that count."""
    backbone, device = model.backbone, model.backbone.device
    columns, counts = lesson.columns(made, taught=False)
    with torch.no_grad():
        teacher = backbone.states(backbone.plain(_batch(model, columns)))[0][counts.to(device)]
    columns, counts = lesson.columns(made, taught=True)
    student = backbone.states(model.reprogrammed.program(_batch(model, columns), backbone))[0][counts.to(device)]
    ends = torch.zeros(len(student), dtype=torch.bool, device=device)
    ends[counts.sum(1).cumsum(0).to(device) - 1] = True
    return student, teacher, ends


def _batch(model: Any, columns: dict[str, Any]) -> Batch:
    return model.reprogrammed.batch(**{key: value.to(model.backbone.device) for key, value in columns.items()})


def _check(model: Any) -> None:
    """Raise where the base cannot teach itself, or the active program cannot learn."""
    backbone = model.backbone
    if backbone.kind != "causal":
        what = f"a {type(backbone.base).__name__} predicts no next token of the text that it reads"
        raise BaseModelError("distill", what, "a causal language model (AutoModelForCausalLM)")
    if model.reprogrammed.disabled:
        raise UsageError("distill", "the program is disabled", "an enabled one", "leave the `with` block")
    if not any(isinstance(part, Prompt) for part in model.active_programs()):
        types = [part.options.type for part in model.active_programs()]
        raise ConfigError("distill", f"the program {types} has no slots", "a prompt", "program=hr.PromptConfig(...)")
    if not any(p.requires_grad for part in model.active_programs() for p in part.parameters()):
        fix = "load it with is_trainable=True, or set_adapter(name)"
        raise UsageError("distill", f"{model.active_name()!r} does not train", "a program that does", fix)


def _set_aside(made: list[LaidOut], generator: torch.Generator) -> tuple[list[LaidOut], list[LaidOut]]:
    """(rows to learn from, rows to measure on)."""
    if len(made) < 2:
        raise UsageError("distill(rows)", f"{len(made)} row", "some to learn from and some to measure on, or held_out")
    count = min(max(len(made) // 10, 1), HELD_OUT)
    order = torch.randperm(len(made), generator=generator).tolist()
    return [made[i] for i in sorted(order[count:])], [made[i] for i in sorted(order[:count])]


def _begin(model: Any, instruction: str, seed: int) -> None:
    """The slots at the instruction's first tokens; the config says so, so that this start can be made again."""
    config = model.peft_config[model.active_name()]
    parts = list(config.programs)
    for i, program in enumerate(model.active_programs()):
        if isinstance(program, Prompt):
            parts[i] = program.options = dataclasses.replace(parts[i], init="words", init_text=instruction)
            generator = torch.Generator().manual_seed(seed)
            program.initialise(model.backbone, generator, tokenizer_of(model.processing_class))
    config.program = parts[0] if len(parts) == 1 else parts


def _train(
    model: Any,
    lesson: Lesson,
    made: Sequence[LaidOut],
    steps: int,
    batch_size: int,
    learning_rate: float | None,
    generator: torch.Generator,
    progress: bool | None,
) -> None:
    groups = [
        {
            "params": [p for p in part.parameters() if p.requires_grad],
            "lr": part.learning_rate if learning_rate is None else learning_rate,
        }
        for part in model.active_programs()
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    limit = model.peft_config[model.active_name()].embedding_rms  # 1 in the base's own units, not in the program's
    stream, was_training = _in_turn(len(made), generator), model.training
    model.train()
    try:
        with tqdm(range(steps), desc="distil", unit="step", leave=False, delay=2, disable=progress is False) as bar:
            for _ in bar:
                student, teacher, ends = _both(model, lesson, [made[next(stream)] for _ in range(batch_size)])
                kl = divergence(model.backbone.head, student, teacher)
                loss = kl.mean() + LAST * kl[ends].mean()
                loss.backward()
                for group in groups:
                    torch.nn.utils.clip_grad_norm_(group["params"], limit)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                bar.set_postfix(kl=f"{kl.mean().item():.3f}", refresh=False)
    finally:
        model.train(was_training)


def _in_turn(count: int, generator: torch.Generator) -> Iterator[int]:
    """Numbers of rows without end, each once before any comes again."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
