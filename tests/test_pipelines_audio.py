"""`hr.pipeline("audio-classification")`, the command line and the card of a program whose base hears."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import transformers

import hf_reprogram as hr
from hf_reprogram.cli import main
from hf_reprogram.errors import UsageError
from hf_reprogram.testing import AUDIO_ROWS, build, config_of, tiny


SOUND = AUDIO_ROWS[0]["audio"]


@pytest.fixture(scope="module")
def model() -> Any:
    return build(config_of("mapping", "linear", "hubert-encoder"), "hubert-encoder")


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with its extractor, the program, and a sound."""
    root = tmp_path_factory.mktemp("hearing")
    model.backbone.base.save_pretrained(root / "base")
    model.processing_class.save_pretrained(root / "base")
    model.save_pretrained(root / "program")
    soundfile.write(root / "clip.wav", SOUND["array"], SOUND["sampling_rate"], subtype="FLOAT")
    return root


def _close(ours: Any, theirs: Any) -> bool:
    return ours["label"] == theirs["label"] and abs(ours["score"] - theirs["score"]) < 1e-5


def test_every_form_of_a_sound_is_one(model: Any, folder: Path) -> None:
    classify = hr.pipeline("audio-classification", model)
    (expected,) = model.predict([AUDIO_ROWS[0]])
    clip = str(folder / "clip.wav")
    for alone in (
        clip,
        SOUND,
        {"raw": SOUND["array"], "sampling_rate": 16000},
        SOUND["array"],
        Path(clip).read_bytes(),
    ):
        for answer in (classify(alone), classify([alone])[0]):
            assert len(answer) == 2 and _close(answer[0], expected)
    assert _close(classify(AUDIO_ROWS[0])[0], expected)
    assert [len(answer) for answer in classify(AUDIO_ROWS[:2], top_k=None)] == [2, 2]
    assert _close(next(classify(row for row in AUDIO_ROWS))[0], expected)


def _shape(value: Any) -> Any:
    """Nested lists of the keys of dicts."""
    return [_shape(v) for v in value] if isinstance(value, list) else tuple(sorted(value))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 3}, {"top_k": None}, {"top_k": 99}], ids=str)
def test_shapes_are_those_of_transformers(alone: bool, options: dict[str, Any]) -> None:
    """`AudioClassificationPipeline`, 5.23: a list for every sound, of all labels where the call does not say.

    (It means to give five then, but a call without `top_k` asks for as many as there are.)
    """
    base, extractor = tiny("wav2vec2-classifier")
    theirs = transformers.pipeline("audio-classification", base, feature_extractor=extractor)
    labels = list(base.config.id2label.values())
    config = hr.ReprogramConfig(mapping={"type": "linear", "solver": "gradient", "pool": "mean"}, labels=labels)
    ours = hr.pipeline(
        "audio-classification", hr.get_reprogram_model(tiny("wav2vec2-classifier")[0], config, extractor)
    )
    sounds = SOUND["array"] if alone else [SOUND["array"], SOUND["array"]]
    found = _shape(ours(sounds, **options))
    assert found == _shape(theirs(sounds, **options))
    assert len(found if alone else found[0]) == {1: 1, 3: 3, None: 7, 99: 7}[options.get("top_k")]
    if not alone:
        assert _shape(ours([{"audio": SOUND}] * 2, **options)) == found


def test_without_a_task_it_is_what_the_base_takes(model: Any) -> None:
    assert type(hr.pipeline(None, model)).__name__ == "AudioClassification"
    assert (
        type(hr.pipeline(None, build(config_of("program", "prompt", "llama"), "llama"))).__name__
        == "TextClassification"
    )


def test_the_wrong_task_names_the_right_one(model: Any) -> None:
    with pytest.raises(
        UsageError, match="'text-classification', and a HubertModel takes audio.*'audio-classification'"
    ):
        hr.pipeline("text-classification", model)


def test_the_command_labels_sounds_and_series(
    folder: Path, model: Any, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    program = [str(folder / "program"), "--base", str(folder / "base")]
    clip = str(folder / "clip.wav")
    assert main(["predict", *program, "--audio", clip, clip]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [a["audio"] for a in answers] == [clip, clip]
    assert _close(answers[0], model.predict([AUDIO_ROWS[0]])[0])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"series": [0, 1, 0, -1], "id": 7}) + "\n")
    assert main(["predict", program[0], str(rows), *program[1:]]) == 0
    (answer,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert answer["id"] == 7 and answer["label"] in ("negative", "positive")
    rows.write_text('{"text": "so good"}\n')
    assert main(["predict", *program, str(rows)]) == 2
    err = capsys.readouterr().err
    assert "line 1: no column 'audio', and the program hears." in err and "--audio takes files of sound" in err
    with pytest.raises(UsageError, match="--audio: given beside"):
        from hf_reprogram.cli import predict

        predict.run(_options(predict, [program[0], str(rows), "--audio", clip]))


def _options(command: Any, given: list[str]) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return parser.parse_args(given)


def test_inspect_shows_the_canvas(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(folder / "program")]) == 0
    page = capsys.readouterr().out
    assert re.search(r"canvas +3,200 samples\n", page) and "template" not in page
    assert re.search(r"--audio\s+SOUND", page)  # a long path breaks the line


def test_the_cards_snippet_runs(folder: Path) -> None:
    card = (folder / "program" / "README.md").read_text()
    assert "pipeline_tag: audio-classification" in card and "| canvas | 3,200 samples |" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    before = (
        "from transformers import AutoModel, AutoFeatureExtractor\n"
        f"base = AutoModel.from_pretrained({str(folder / 'base')!r})\n"
        f"processor = AutoFeatureExtractor.from_pretrained({str(folder / 'base')!r})\n"
    )
    code = code.replace('from_pretrained("program"', f"from_pretrained({str(folder / 'program')!r}")
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[\{'label': '(negative|positive)', 'score': 0\.\d+\}\]", done.stdout)


def test_loaded_by_name_with_its_extractor(folder: Path, model: Any) -> None:
    """AutoReprogramModel finds base and feature extractor where the config says they are."""
    again = hr.AutoReprogramModel.from_pretrained(folder / "program", str(folder / "base"))
    assert np.allclose(again.score(AUDIO_ROWS), model.score(AUDIO_ROWS), atol=1e-5)
