"""Which checkpoint a run goes on from: the last one that was written to its end."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .. import artefact
from ..errors import ArtefactError


logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"  # Trainer writes it last


def last_whole(folder: Path) -> Path | None:
    """The checkpoint of most steps under `folder` that is whole; None where there is none.

    A kill may leave one half-written: Trainer writes its files one after the other and replaces none. It is passed
    over, and one line says so.
    """
    numbered = {
        int(step): path
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (step := path.name.rpartition("-")[2]).isdigit()
    }
    for _, path in sorted(numbered.items(), reverse=True):
        fault = _fault(path)
        if fault is None:
            return path
        logger.warning("%s is passed over: %s. A run was stopped while it wrote it.", path, fault)
    return None


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is whole."""
    try:
        json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        artefact.load(path)
    except (OSError, ValueError, ArtefactError) as error:
        return f"{STATE_FILE} is not whole" if not isinstance(error, ArtefactError) else str(error)
    # torch writes zip files, whose table of contents comes last.
    torn = [p.name for p in path.iterdir() if p.suffix in (".pt", ".pth") and not zipfile.is_zipfile(p)]
    return f"{torn[0]} is not whole" if torn else None
