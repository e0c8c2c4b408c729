"""From named tensors to a checkpoint of transformers, checked against the model that will read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .asset import AssetError


if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel


def save_checkpoint(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """Write config.json and model.safetensors, in half precision on the disk; the model loads in float32.

    Raises:
        AssetError: the model has other tensors: a transformers version that renamed some, or a mistake of ours.
    """
    import torch
    from safetensors.torch import save_file

    with torch.device("meta"):  # shapes alone
        wanted = {name: tensor.shape for name, tensor in model_class(config).state_dict().items()}
    tied = {"proj_out.weight"}  # the embedding, once more
    given = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in (wanted.keys() | given) - tied if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise AssetError(
            f"{model_class.__name__}: {len(wrong)} tensors do not fit, the first is {name}: the package gives "
            f"{given.get(name)}, transformers wants {wanted.get(name)}. Fix: install the tested set (constraints.txt)"
        )
    config.dtype, config.architectures = "float32", [model_class.__name__]
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
