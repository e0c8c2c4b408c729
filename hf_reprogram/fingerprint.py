"""What identifies a base and its tokenizer exactly enough to refuse a wrong one."""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from .backbone.kinds import modality_of
from .backbone.prefix import LANGUAGE, language_of
from .errors import ArtefactError
from .processors import extractor_of, tokenizer_of


logger = logging.getLogger(__name__)

_MEMO: weakref.WeakKeyDictionary[Any, tuple[Any, dict[str, Any]]] = weakref.WeakKeyDictionary()


def base_fingerprint(base: nn.Module) -> dict[str, str]:
    """Identity of a base: all bytes of its tensors, and the config fields that alter its forward.

    A config that says in words what the base is, as that of a model which is asked (its `asked`), is named as well.
    """
    text = json.dumps(config_fields(base), sort_keys=True, default=str)
    found = weights_fingerprint(base) | {"config": hashlib.sha256(text.encode()).hexdigest()[:32]}
    asked = getattr(base.config, "asked", None)
    return found if asked is None else found | {"asked": asked}


def weights_fingerprint(base: nn.Module, modules: Iterable[nn.Module] | None = None) -> dict[str, str]:
    """Identity of a base without its config.

    Args:
        modules: all of the base, where the caller has walked through them already.
    """
    return {
        "class": type(base).__name__,
        "width": str(_width(base)),
        "dtype": str(base.dtype).removeprefix("torch."),
        "weights": remembered(base, "weights", tensor_digest, modules),
    }


def remembered(
    base: nn.Module,
    what: str,
    make: Callable[[Mapping[str, Tensor]], Any],
    modules: Iterable[nn.Module] | None = None,
) -> Any:
    """`make(tensors of the base)`, once for each state of them.

    An in-place edit is seen, because the tensor's version counter rises; of one through `.data`, which has none,
    `look_again` knows.
    """
    tensors = _all_tensors(base, modules)
    state = tuple((t.data_ptr(), t._version) for t in tensors)
    known = _MEMO.get(base)
    if known is None or known[0] != state:
        known = _MEMO[base] = (state, {"looked": _middles(tensors)})
    if what not in known[1]:
        known[1][what] = make(_unique_tensors(base))
    return known[1][what]


def look_again(base: nn.Module) -> None:
    """Forget what is remembered of a base whose tensors were written through `.data`, as PEFT's merge does.

    One number of each tensor is looked at, some milliseconds in all: too long for every load of a program, which is
    why `remembered` does not.
    """
    known = _MEMO.get(base)
    if known is not None and known[1]["looked"] != _middles(_all_tensors(base, None)):
        del _MEMO[base]


@torch.no_grad()
def _middles(tensors: list[Tensor]) -> list[Any]:
    """The number in the middle of each tensor."""
    return [t.view(-1)[t.numel() // 2].item() if t.numel() and t.is_contiguous() else None for t in tensors]


def _all_tensors(base: nn.Module, modules: Iterable[nn.Module] | None) -> list[Tensor]:
    """Parameters and buffers as they lie in the modules: a third of the time of `state_dict`, on every load."""
    modules = base.modules() if modules is None else modules
    found = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    # What stands in for an offloaded tensor never changes; what is kept for it may.
    return list(_unique_tensors(base).values()) if any(t.is_meta for t in found) else found


def tensor_digest(tensors: Mapping[str, Tensor], rounded_to: torch.dtype | None = None) -> str:
    """xxh3_128 of names, types, shapes and all bytes: 540 MB in 25 ms, where sha256 takes 330 (P§F).

    Args:
        tensors: in any order.
        rounded_to: what floating-point tensors are rounded to first.
    """
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):  # one at a time: they may come from the disk
        tensor = tensors[name]
        tensor = tensor.to(rounded_to) if rounded_to is not None and tensor.is_floating_point() else tensor
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy())
    return f"xxh3_128:{digest.hexdigest()}"


def _rounded(base: nn.Module) -> str:
    """Digest of the weights as bfloat16 holds them: one of a float32 base and of the same base loaded in bfloat16."""
    return remembered(base, "rounded", lambda tensors: tensor_digest(tensors, torch.bfloat16))


# Names, versions and the output side change nothing that the body computes; use_cache is a matter of speed. Nor is the
# attention implementation part of it: they agree to 1e-6, and a program is trained on one machine to serve on another.
_EXTRACTOR_NOISE = {"processor_class", "feature_extractor_type", "_processor_class", "name_or_path"}
_CONFIG_NOISE = {
    "_name_or_path", "transformers_version", "architectures", "id2label", "label2id", "problem_type", "use_cache",
    "dtype", "output_hidden_states", "output_attentions", "return_dict",
}  # fmt: skip


def config_fields(base: nn.Module) -> dict[str, Any]:
    """The fields of a base's config that may alter its forward."""
    fields, language = {k: v for k, v in base.config.to_dict().items() if k not in _CONFIG_NOISE}, language_of(base)
    return fields if language is None else fields | {LANGUAGE: language}


def _unique_tensors(base: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones once; of an offloaded base, those that are kept for it."""
    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in base.state_dict(keep_vars=True).items():
        if tensor.is_meta:
            if name not in base.all_tied_weights_keys:
                module, _, key = name.rpartition(".")
                tensors[name] = base.get_submodule(module)._hf_hook.weights_map[key]
        elif seen.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), name) == name:
            tensors[name] = tensor
    return tensors


def _width(base: nn.Module) -> int:
    """Size of the vectors that programs put in; of a base that hears, of its encoder's."""
    if modality_of(base) == "audio":
        return base.config.hidden_size
    return base.get_input_embeddings().weight.shape[1]


def processor_fingerprint(processor: Any) -> str | None:
    """Identity of a tokenizer: its vocabulary, rules and special tokens, not its padding state. Of a feature extractor
    all its constants; of a processor, of both."""
    extractor = extractor_of(processor)
    if extractor is not None:
        constants = {k: v for k, v in extractor.to_dict().items() if k not in _EXTRACTOR_NOISE}
        text = json.dumps(constants, sort_keys=True, default=str)
        own, tokenizer = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", tokenizer_of(processor)
        return own if tokenizer is None else f"{own}+{processor_fingerprint(tokenizer)}"
    if processor is None:
        return None
    known = _MEMO.get(processor)
    state = (len(processor), str(processor.special_tokens_map))
    if known is not None and known[0] == state:
        return known[1]["rules"]
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        # A call with padding or truncation leaves its mark in the backend; the identity must not change with it.
        rules = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    else:
        rules = sorted(processor.get_vocab().items())
    text = json.dumps([rules, processor.special_tokens_map], sort_keys=True, default=str)
    found = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    _MEMO[processor] = (state, {"rules": found})
    return found


_DIFFERENCES = {
    "asked": "another model that is asked",
    "class": "a base of another class", "width": "a base of another width", "config": "a base with another config",
    "dtype": "a base in another dtype", "weights": "a base with other weights",
    "processor": "another tokenizer or feature extractor",
}  # fmt: skip


def check_fingerprint(saved: Mapping[str, Any] | None, base: nn.Module, processor: Any, where: str) -> None:
    """Raise an ArtefactError where the program was made for another base or processor; names both sides.

    A program made without a processor suits any; one whose fingerprint leaves out anything else proves nothing. The
    same weights in float32 and rounded to bfloat16 are one base, which is said: scores differ by the rounding.
    """
    saved = saved or {}
    present = {**base_fingerprint(base), "processor": processor_fingerprint(processor)}
    own = saved.get("processor")
    if isinstance(own, str) and "+" not in own:  # made with the extractor alone: a tokenizer beside it is no matter
        present["processor"] = (present["processor"] or "").partition("+")[0] or None
    rounded = _differ_by_rounding(saved, present, base)
    for key, text in _DIFFERENCES.items():
        theirs, ours = saved.get(key), present.get(key)
        if theirs is None and key not in _OPTIONAL:
            why = f"its fingerprint does not say the {key} of its base"
            raise ArtefactError(where, why, "a program saved by hf_reprogram", "save it again")
        if theirs is not None and ours is not None and theirs != ours and not (rounded and key in _ROUNDED):
            raise ArtefactError(
                where,
                f"made for {text}: {theirs} is not {ours}",
                "the base and processor that it was trained with",
                "hr.remote_text or hr.remote_audio of the same source, classes and words"
                if key == "asked"
                else "AutoReprogramModel.from_pretrained loads the right ones, with what the base was loaded with "
                "(quantization_config=...)",
            )
    if rounded:
        logger.warning(
            "%s was trained on its base in %s and runs on the same weights in %s: scores differ by rounding.",
            where,
            saved["dtype"],
            present["dtype"],
        )


_ROUNDED = ("dtype", "weights")
_OPTIONAL = ("asked", "processor")


def _differ_by_rounding(saved: Mapping[str, Any], present: Mapping[str, Any], base: nn.Module) -> bool:
    types = (saved.get("dtype"), present["dtype"])
    if types not in (("float32", "bfloat16"), ("bfloat16", "float32")):
        return False
    return saved.get("rounded") == _rounded(base)


def identity(base: nn.Module, processor: Any) -> dict[str, str | None]:
    """The fingerprint that goes into a config: of the base, and of the processor where there is one.

    With `layers`, the base's number of them: of a model that was loaded without its last ones (`num_hidden_layers=`),
    as its name alone does not tell.
    """
    found = {**base_fingerprint(base), "rounded": _rounded(base)}
    layers = getattr(base.config, "num_hidden_layers", None)
    found |= {"layers": str(layers)} if isinstance(layers, int) else {}
    return {**found, "processor": processor_fingerprint(processor)}


def renewed(saved: Mapping[str, Any], base: nn.Module) -> dict[str, Any]:
    """The fingerprint of a base that may have been changed since it was wrapped, by a user's own training, say: a
    program answers for the base under which it is saved. A change is said."""
    look_again(base)
    now = {**weights_fingerprint(base), "rounded": _rounded(base)}
    if _differ_by_rounding(saved, now, base):  # loaded on the same weights in another type: they stay what they were
        return dict(saved)
    changed = [key for key in ("dtype", "weights", "rounded") if key in saved and saved[key] != now[key]]
    if changed:
        logger.warning(
            "The base was changed after it was wrapped (%s). The program is saved as one of the base as it is: save "
            "that too, model.backbone.base.save_pretrained(folder), and load the program with base_model=folder.",
            ", ".join(changed),
        )
    return {**saved, **{key: now[key] for key in changed}}
