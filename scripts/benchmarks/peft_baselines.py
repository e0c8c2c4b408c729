"""PEFT's prompt tuning and LoRA, read as ours is: the same rows, label words and loss, the same ordinary Trainer.

PEFT trains a causal model on the whole vocabulary at all positions. For the comparison of methods, not of losses, its
parameters stand here in front of (prompt tuning) or inside (LoRA) the frozen model, and our own reading stays.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from benchmarks.baselines import Outcome, Row, Tick, guesses, in_slices
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

import hf_reprogram as hr


class Prefixed(nn.Module):
    """Our model without a program, and PEFT's virtual tokens in front of every row.

    Args:
        model: ours, with the program `none`, on a causal base or a bare encoder.
        prompt: PEFT's prompt tuning on a base of the same weights.
    """

    def __init__(self, model: hr.ReprogramModel, prompt: nn.Module) -> None:
        super().__init__()
        self.model, self.prompt = model, prompt

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, slot_index: Tensor, answer_index: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:  # fmt: skip
        """Right-padded rows as our collator makes them, to target logits."""
        mapping = self.model.active_mapping()
        logits = mapping(self.read(input_ids, attention_mask, slot_index, answer_index))  # (batch, classes)
        return SequenceClassifierOutput(loss=None if labels is None else mapping.loss(logits, labels), logits=logits)

    def read(
        self, input_ids: Tensor, attention_mask: Tensor, slot_index: Tensor, answer_index: Tensor | None = None
    ) -> hr.Readout:
        """What our mapping reads of the rows; a virtual token counts as a slot, which no mean is taken over."""
        backbone = self.model.backbone
        before = self.prompt.get_prompt(len(input_ids))  # (batch, virtual tokens, width)
        shape = before.shape[:2]
        batch = hr.Batch(
            attention_mask=torch.cat([attention_mask.new_ones(shape), attention_mask], 1),
            embeds=torch.cat([before, backbone.embed(input_ids)], 1),
            slot_index=torch.cat([slot_index.new_zeros(shape), slot_index], 1),
            answer_index=None if answer_index is None else answer_index + shape[1],
        )
        return backbone.run(batch, self.model.active_mapping().reading())


def prompt_tuning(
    base: PreTrainedModel,
    tokenizer: Any,
    template: str,
    verbalizer: dict[str, Any],
    few: Sequence[Row],
    test: Sequence[Row],
    arguments: TrainingArguments,
    slots: int,
    init_text: str,
    tick: Tick | None = None,
) -> Outcome:
    """PEFT's prompt tuning with our reading.

    Args:
        base, tokenizer: a causal model, frozen afterwards; the tokenizer was loaded from a folder.
        template: ours without its slots.
        verbalizer: options of our verbalizer.
        few: rows in the order in which they are learned, batch after batch.
        test: rows to judge.
        arguments: of the Trainer; the rate is in units of the embeddings themselves.
        slots: virtual tokens.
        init_text: they start as its tokens.
        tick: told of every row that is judged.
    """
    ours = _without_program(twin(base), tokenizer, template, verbalizer)
    model = Prefixed(ours, virtual_tokens(base, tokenizer, slots, init_text))
    outcome = _learn(model, ours, few, test, arguments, tick)
    return replace(outcome, method=f"peft_prompt_tuning:{arguments.learning_rate:g}")


def virtual_tokens(
    base: PreTrainedModel, tokenizer: Any, count: int, init_text: str, task: str = "CAUSAL_LM"
) -> PeftModel:
    """PEFT's prompt tuning on a twin of the base, started as the tokens of a text; `task` as PEFT calls it."""
    config = PromptTuningConfig(
        task_type=task,
        num_virtual_tokens=count,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=init_text,
        tokenizer_name_or_path=tokenizer.name_or_path,
    )
    with without_pefts_warning():
        return get_peft_model(twin(base), config)


def lora(
    base: PreTrainedModel,
    tokenizer: Any,
    template: str,
    verbalizer: dict[str, Any],
    few: Sequence[Row],
    test: Sequence[Row],
    arguments: TrainingArguments,
    tick: Tick | None = None,
    **options: Any,
) -> Outcome:
    """LoRA (rank 8 on queries and values) with our reading; arguments as for `prompt_tuning`.

    Args:
        options: of `LoraConfig`, instead of ours.
    """
    base = copy.deepcopy(base)  # LoRA changes the modules of the model that it is put into
    ours = _without_program(base, tokenizer, template, verbalizer)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]} | options)
    torch.manual_seed(arguments.seed)
    inject_adapter_in_model(config, base)
    outcome = _learn(ours, ours, few, test, arguments, tick)
    return replace(outcome, method=f"lora:{arguments.learning_rate:g}")


def twin(base: PreTrainedModel) -> PreTrainedModel:
    """Another module tree on the very same weights: modules are apart, freezing is shared."""
    return copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})


@contextmanager
def without_pefts_warning() -> Iterator[None]:
    """PEFT reads a flag of the base under its old name; transformers warns of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        yield


def _without_program(
    base: PreTrainedModel, tokenizer: Any, template: str, verbalizer: dict[str, Any]
) -> hr.ReprogramModel:
    config = hr.ReprogramConfig(
        program={"type": "none", "template": template}, mapping=hr.VerbalizerConfig(**verbalizer)
    )
    return hr.get_reprogram_model(base, config, processing_class=tokenizer)


def _learn(
    model: nn.Module,
    ours: hr.ReprogramModel,
    few: Sequence[Row],
    test: Sequence[Row],
    arguments: TrainingArguments,
    tick: Tick | None,
) -> Outcome:
    """Train what trains in `model`, and judge the test rows; `ours` lays rows out."""
    start = time.perf_counter()
    collator = ours.collator()
    trainer = Trainer(model, arguments, train_dataset=list(few), data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()

    @torch.no_grad()
    def read(part: list[Row]) -> Tensor:
        return model(**collator.stack(collator.lay_out(part, labelled=False))).logits

    scores = in_slices(test, read, tick)
    seconds = time.perf_counter() - start
    numbers = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in numbers)
    return Outcome("", guesses(scores, ours.label_names()), sum(p.numel() for p in numbers), size, seconds, scores)
