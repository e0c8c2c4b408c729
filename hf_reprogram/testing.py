"""The contract tests of programs and mappings, for us and for others.

A third party runs them on its own method:

    from hf_reprogram.testing import check_program
    check_program("my_program")

Each check is a plain function of a config and a family; a failure names the method, the family and the number seen.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from .artefact import CONFIG_FILE, WEIGHTS_FILE
from .auto import AutoReprogramModel
from .batch import Reading
from .config import ReprogramConfig
from .model import ReprogramModel, get_reprogram_model
from .registry import method_class


_WORDS = re.findall(
    r"\w+",
    """a the it was is not very good great bad poor terrible fine film movie book phone works broke after week day and
    but so too this that my i love hate like would buy again never always review overall sentiment positive negative""",
)

LABELS = ["negative", "positive"]
ROWS = [
    {"text": "this film was so good", "label": "positive"},
    {"text": "my phone broke", "label": "negative"},
    {"text": "i love this book and would buy it again", "label": "positive"},
    {"text": "terrible", "label": "negative"},
    {"text": "it works fine but i like that", "label": "positive"},
    {"text": "never again this was a bad day", "label": "negative"},
]

_VERBALIZER = {"type": "verbalizer", "words": {"negative": [" bad", " poor"], "positive": [" good"]}}
_PROMPT = {"type": "prompt", "template": "{prompt:3} {text} {prompt:2} it was{answer}"}


# Tiny models


def tiny(family: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random tiny base and its tokenizer: `llama` (causal), `bert` (masked) or `t5` (seq2seq).

    Weights are random; English words have no meaning to it. Biases and norms are not at their trivial values, so that
    a forgotten one shows.
    """
    tokenizer = _tokenizer(family)
    torch.manual_seed(seed)
    base = _BASES[family](len(tokenizer), tokenizer.pad_token_id).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in base.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.2 + (1 if p.ndim == 1 and name.endswith("weight") else 0))
    return base, tokenizer


def _llama(vocabulary: int, pad: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=pad, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _bert(vocabulary: int, pad: int) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=pad,
    )  # fmt: skip
    return BertForMaskedLM(config)


def _t5(vocabulary: int, pad: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=pad,
        decoder_start_token_id=pad,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


_BASES: dict[str, Callable[[int, int], PreTrainedModel]] = {"llama": _llama, "bert": _bert, "t5": _t5}
FAMILIES = tuple(_BASES)


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per word, with the family's own treatment of spaces and specials."""
    specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    marks = {"llama": ("", "Ġ"), "bert": ("",), "t5": ("▁",)}[family]
    vocabulary = specials + [mark + word for word in [*_WORDS, ":", ".", ","] for mark in marks]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if family == "llama":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        template = "<s> $A"
    elif family == "bert":
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        template, names["mask_token"] = "<s> $A </s>", "<mask>"
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        template = "$A </s>"
    ids = [(token, vocabulary.index(token)) for token in specials]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


# Helpers


def build(config: ReprogramConfig, family: str) -> ReprogramModel:
    """A model of a tiny base with the config on it, its mapping fitted where it needs that."""
    base, tokenizer = tiny(family)
    model = get_reprogram_model(base, config, processing_class=tokenizer)
    if model.active_mapping().needs_fit:
        model.fit_mapping(ROWS)
    return model


def state_hash(module: torch.nn.Module) -> int:
    """A number that changes with any byte of a module's state."""
    return hash(tuple((k, v.numpy().tobytes()) for k, v in module.state_dict().items()))


def flags(base: torch.nn.Module) -> list[Any]:
    """What a base shows of itself besides its numbers: module tree, hooks, gradient and training flags."""
    tree = [(name, type(m).__name__, m.training, len(m._forward_hooks)) for name, m in base.named_modules()]
    return [tree, [(name, p.requires_grad) for name, p in base.named_parameters()]]


def logits_of(model: ReprogramModel, rows: list[dict[str, Any]]) -> Tensor:
    """Logits of some rows in one pass, in their order, no sorting."""
    collator = model.collator()
    with torch.no_grad():
        return model(**collator.stack(collator.lay_out(rows, labelled=False))).logits


def _gap(a: Tensor, b: Tensor) -> float:
    a, b = a.nan_to_num(neginf=-1e4), b.nan_to_num(neginf=-1e4)
    return (a - b).abs().max().item()


def _close(a: Tensor, b: Tensor, limit: float, what: str) -> None:
    gap = _gap(a, b) if a.shape == b.shape else float("nan")
    assert gap <= limit, (
        f"{what}: difference {gap:.3g} of shapes {tuple(a.shape)}, {tuple(b.shape)}; allowed {limit:g}"
    )


# Checks: each holds for every program and every mapping on every family


def base_is_untouched(config: ReprogramConfig, family: str) -> None:
    """Base state, module tree, hooks and flags are as found after train, save, load, delete and unload."""
    base, tokenizer = tiny(family)
    found, numbers = flags(base), state_hash(base)
    model = get_reprogram_model(base, config, processing_class=tokenizer)
    _fit(model)
    assert not any(p.requires_grad for p in base.parameters()), "a parameter of the base requires grad"
    _train_step(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.load_adapter(folder, "other")
    model.set_adapter("other")
    model.delete_adapter("default")
    assert state_hash(base) == numbers, "the base's numbers changed"
    assert [m[:2] + m[3:] for m in flags(base)[0]] == [m[:2] + m[3:] for m in found[0]], "module tree or hooks changed"
    assert model.unload() is base
    assert flags(base) == found, "unload left flags changed"


def gradient_reaches_all(config: ReprogramConfig, family: str) -> None:
    """The first step moves every trainable parameter, and nothing else."""
    model = build(config, family)
    model.train()
    assert not any(m.training for m in model.backbone.base.modules()), "the base woke up"
    if not any(p.requires_grad for p in model.parameters()):
        return
    _loss(model, ROWS).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().sum() > 0, f"no gradient reaches {name}"
        else:
            assert p.grad is None, f"gradient at the frozen {name}"


def disabled_is_the_base(config: ReprogramConfig, family: str) -> None:
    """`disable_adapter()` gives the base's own output on rows without slots; so does a fresh zero-effect program."""
    model = build(config, family)
    with model.disable_adapter(), torch.no_grad():
        columns = model.collator(disabled=True)([{**row, "label": None} for row in ROWS])
        ours = model(**columns).logits
    base, ids, mask = model.backbone.base, columns["input_ids"], columns["attention_mask"]
    prefix = torch.tensor(model.backbone.decoder_prefix).expand(len(ids), -1)
    extra = {"decoder_input_ids": prefix} if model.backbone.kind == "seq2seq" else {}
    with torch.no_grad():
        own = base(input_ids=ids, attention_mask=mask, **extra).logits
    real = torch.ones_like(own[..., :1]) if extra else mask.unsqueeze(-1)
    _close(ours * real, own * real, 1e-5, "disabled against the base")
    if all(method_class("program", p.type).zero_effect_at_start for p in config.programs):
        with torch.no_grad():
            batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
            fresh = model.backbone.base_output(batch).logits
        _close(fresh * real, own * real, 1e-6, "zero effect at start")


def padding_changes_nothing(config: ReprogramConfig, family: str) -> None:
    """Padding side and amount, batch mates and row order change no score."""
    if config.mapping.type == "none":
        return
    model = build(config, family)
    together = logits_of(model, ROWS)
    alone = torch.cat([logits_of(model, [row]) for row in ROWS])
    _close(together, alone, 1e-5, "a row beside others against alone")
    _close(logits_of(model, ROWS[::-1]).flip(0), together, 1e-5, "row order")
    columns = model.collator()([{**row, "label": None} for row in ROWS])
    for side in model.backbone.family.sides:
        with torch.no_grad():
            moved = model(**_pad_more(columns, 3, side, model.backbone.kind)).logits
        _close(moved, together, 1e-5, f"three more positions of padding on the {side}")
    _close(model.score(ROWS, batch_size=2), together, 1e-5, "sorted batches of two")


def mixed_rows_equal_separate(config: ReprogramConfig, family: str) -> None:
    """Rows of different programs in one pass give what separate passes give."""
    if config.mapping.type == "none":
        return
    model = build(config, family)
    other = ReprogramConfig(
        program={"type": "prompt", "template": "{prompt:4} {text} so{answer}"},
        mapping={"type": "verbalizer", "words": {"a": [" like"], "b": [" love"], "c": [" hate"]}},
    )
    plain = ReprogramConfig(program={"type": "none", "template": "{text} is{answer}"}, mapping=_VERBALIZER)
    model.add_adapter("other", other, seed=1)
    model.add_adapter("plain", plain)
    names = ["default", "other", "plain"] * 2
    mixed = logits_of(model, [{**row, "adapter": name} for row, name in zip(ROWS, names, strict=True)])
    for i, (row, name) in enumerate(zip(ROWS, names, strict=True)):
        model.set_adapter(name)
        alone = logits_of(model, [row])[0]
        _close(mixed[i, : len(alone)], alone, 1e-5, f"row {i} of program {name}")
        assert torch.isneginf(mixed[i, len(alone) :]).all(), "classes that a row does not have are not -inf"


def saves_and_loads(config: ReprogramConfig, family: str) -> None:
    """Loaded under another name on a fresh base: scores bit-equal; a second save byte-identical; small files."""
    model = build(config, family)
    _train_step(model)
    expected = logits_of(model, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        base, tokenizer = tiny(family)
        again = AutoReprogramModel.from_pretrained(folder, base, tokenizer, adapter_name="another")
        assert torch.equal(logits_of(again, ROWS), expected), "scores after loading differ"
        second = Path(folder) / "second"
        again.save_pretrained(second)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            assert (second / name).read_bytes() == (Path(folder) / name).read_bytes(), f"second save: {name} differs"
        size = sum((second / name).stat().st_size for name in (WEIGHTS_FILE, CONFIG_FILE))
    numbers = sum(t.numel() for t in model.base_model.state("default").values())
    assert size <= 4 * numbers + 8192, f"{size} bytes for {numbers} numbers"


def sliced_equals_full(config: ReprogramConfig, family: str) -> None:
    """Label rows computed alone are those of the full logits."""
    model = build(config, family)
    columns = model.collator()([{**row, "label": None} for row in ROWS])
    if "answer_index" not in columns:
        return
    ids = tuple(range(0, model.backbone.head.size, 7))
    some = model.reprogrammed.readout(columns, Reading("rows", ids=ids))
    full = model.reprogrammed.readout(columns, Reading("rows"))
    _close(some, full[:, list(ids)], 1e-5, "sliced against full logits")


def accumulation_changes_nothing(config: ReprogramConfig, family: str) -> None:
    """Gradients of two accumulated half-batches are those of one batch."""
    if config.mapping.type == "none":
        return
    model = build(config, family)
    if not any(p.requires_grad for p in model.parameters()):
        return
    count = torch.tensor(len(ROWS))
    _loss(model, ROWS, count).backward()
    whole = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for half in (ROWS[:2], ROWS[2:]):
        _loss(model, half, count).backward()
    for name, p in model.named_parameters():
        if name in whole:
            _close(p.grad, whole[name], 1e-5, f"accumulated gradient of {name}")


def starts_from_its_seed(config: ReprogramConfig, family: str) -> None:
    """The same seed gives the same program, whatever the global generator does."""
    states = []
    for noise in (1, 2):
        base, tokenizer = tiny(family)
        torch.manual_seed(noise)
        states.append(get_reprogram_model(base, config, tokenizer, seed=5).base_model.state("default"))
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), f"{name} depends on the global generator"


def config_survives_json(config: ReprogramConfig, family: str) -> None:
    """Config -> JSON -> config is the identity, resolved or not; the caller's config stays as it was."""
    before = copy.deepcopy(config)
    model = build(config, family)
    assert config == before, "the caller's config changed"
    for each in (config, model.peft_config["default"]):
        assert ReprogramConfig.from_dict(each.to_dict()) == each, "config -> JSON -> config differs"


def float32_whatever_the_cast(config: ReprogramConfig, family: str) -> None:
    """`.to(bfloat16)` casts the base and leaves the program's parameters float32; a bf16 base gives finite scores."""
    model = build(config, family).to(torch.bfloat16)
    assert model.backbone.dtype == torch.bfloat16
    for name, tensor in model.base_model.state("default").items():
        assert not tensor.is_floating_point() or tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
    assert logits_of(model, ROWS).isfinite().all(), "scores on a bf16 base are not finite"


CHECKS: dict[str, Callable[[ReprogramConfig, str], None]] = {
    f.__name__: f
    for f in (
        base_is_untouched,
        gradient_reaches_all,
        disabled_is_the_base,
        padding_changes_nothing,
        mixed_rows_equal_separate,
        saves_and_loads,
        sliced_equals_full,
        accumulation_changes_nothing,
        starts_from_its_seed,
        config_survives_json,
        float32_whatever_the_cast,
    )
}


def _fit(model: ReprogramModel) -> None:
    if model.active_mapping().needs_fit:
        model.fit_mapping(ROWS)


def _loss(model: ReprogramModel, rows: list[dict[str, Any]], num_items: Tensor | None = None) -> Tensor:
    if model.active_mapping().options.type == "none":
        columns = model.collator()([{**row, "label": None} for row in rows])
        logits = model(**columns).logits
        # No mapping means no target: any smooth function of all outputs shows whether gradients flow.
        return logits.float().square().mean()
    return model(**model.collator()(rows), num_items_in_batch=num_items).loss


def _train_step(model: ReprogramModel) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if parameters:
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        model.train()
        _loss(model, ROWS).backward()
        optimizer.step()
        model.zero_grad()
        model.eval()


def _pad_more(columns: dict[str, Tensor], n: int, side: str, kind: str) -> dict[str, Tensor]:
    """The same rows with n more positions of padding in the whole batch, all padding on one side."""
    width = columns["input_ids"].shape[1] + n
    answers = columns["answer_index"].clone() if "answer_index" in columns else None
    made = {k: torch.full((len(v), width), -1 if k == "slot_index" else 0) for k, v in columns.items() if v.ndim == 2}
    for i, mask in enumerate(columns["attention_mask"].bool()):
        length = int(mask.sum())
        start = width - length if side == "left" else 0
        for key, tensor in made.items():
            tensor[i, start : start + length] = columns[key][i][mask]
        if answers is not None and kind != "seq2seq":
            answers[i] += start - int(mask.int().argmax())
    return made if answers is None else made | {"answer_index": answers}


# Entry points


def program_config(name: str) -> ReprogramConfig:
    """The config by which a program is checked: its own example, with a verbalizer."""
    options = method_class("program", name).Options(**method_class("program", name).example)
    return ReprogramConfig(program=options, mapping=_VERBALIZER)


def mapping_config(name: str) -> ReprogramConfig:
    """The config by which a mapping is checked: its own example, with a prompt."""
    options = method_class("mapping", name).Options(**method_class("mapping", name).example)
    return ReprogramConfig(program=_PROMPT, mapping=options, labels=LABELS)


def check_program(name: str) -> None:
    """Run every check on a registered program, on every family.

    Raises:
        AssertionError: names the program, the family, the check, and the number seen.
    """
    _check("program", name, program_config(name))


def check_mapping(name: str) -> None:
    """Run every check on a registered mapping, on every family."""
    _check("mapping", name, mapping_config(name))


def _check(kind: str, name: str, config: ReprogramConfig) -> None:
    excused = method_class(kind, name).xfail
    for family in FAMILIES:
        for check, function in CHECKS.items():
            if check in excused:
                continue
            try:
                function(config, family)
            except AssertionError as error:
                raise AssertionError(f"{kind} {name} on {family}, {check}: {error}") from error
