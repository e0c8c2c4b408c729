"""`hf-reprogram methods`."""

from __future__ import annotations

import re

import pytest

from hf_reprogram.cli import main
from hf_reprogram.registry import KINDS, names


def test_methods_names_every_method_with_its_options(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    page = capsys.readouterr().out
    assert all(re.search(rf"^{kind} {name}( \(changes \w+\))?:", page, re.M) for kind in KINDS for name in names(kind))
    assert "init_text" in page and "program waveform (changes wave):" in page
    assert "Filled in" not in page  # what nobody sets
    canvas = page[page.index("canvas (of a base that hears):") :]
    assert (
        "    place: str = 'start' [start, centre, copies, contiguous, am, fm]" in canvas and "    samples:" in canvas
    )
