"""Run by `hub_cases.py` in a process of its own: a stranger who knows only the repo's name loads it in three ways."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

import hf_reprogram as hr


def main(repo: str, expected: str) -> None:
    """Print what each way of loading gives."""
    found = {"torch": "torch" in sys.modules}
    from peft import PeftConfig

    found["peft"] = type(PeftConfig.from_pretrained(repo)).__name__

    import torch
    from huggingface_hub import hf_hub_download

    from hf_reprogram.testing import ROWS, logits_of

    torch.set_num_threads(1)
    (snippet,) = re.findall(r"```python\n(.*?)```", Path(hf_hub_download(repo, "README.md")).read_text(), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet, {})
    found["snippet"] = printed.getvalue()
    logits = logits_of(hr.AutoReprogramModel.from_pretrained(repo), ROWS)
    found["equal"] = torch.equal(logits, torch.load(expected, weights_only=True))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
