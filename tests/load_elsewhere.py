"""Run by `test_artefact.py` in a process of its own: load every program of a folder and compare its logits."""

from __future__ import annotations

import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import hf_reprogram as hr
from hf_reprogram.testing import ROWS, logits_of, tiny


def main(root: Path) -> None:
    """Print, by program, whether its logits are those that were saved beside it."""
    torch.set_num_threads(1)
    found = {}
    for folder in sorted(root.iterdir()):
        model = hr.AutoReprogramModel.from_pretrained(folder, *tiny("llama"), adapter_name="elsewhere")
        expected = torch.load(folder / "logits.pt", weights_only=True)
        found[folder.name] = torch.equal(logits_of(model, ROWS), expected)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
