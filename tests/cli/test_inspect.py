"""`hf-reprogram inspect`: the page, the same as JSON, with the base and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

import hf_reprogram as hr
from hf_reprogram.cli import main
from hf_reprogram.cli._page import page
from hf_reprogram.testing import AUDIO_ROWS, tiny


Capture = pytest.CaptureFixture
CONFIG = hr.ReprogramConfig(
    program=hr.PromptConfig(template="{prompt:3} {text} {prompt:2} it was{answer}", init_text="so good"),
    mapping=hr.VerbalizerConfig(
        words={"negative": [" bad", " poor"], "positive": [" good"]}, calibration="contextual"
    ),
)
RECORD = {
    "seed": 7,
    "data": {"train": "reviews", "rows": 1305},
    "metrics": {"accuracy": 0.844, "loss": 0.41},
    "baselines": {"majority": {"accuracy": 0.629}, "untrained": {"accuracy": 0.652, "loss": 0.7}},
}


@pytest.fixture(scope="module")
def folder(saved: Callable[..., Path]) -> Path:
    return saved(CONFIG, **RECORD)


def test_the_page(folder: Path, capsys: Capture) -> None:
    program = folder / "program"
    assert main(["inspect", str(program)]) == 0
    shown, err = capsys.readouterr()
    lines = shown.splitlines()
    size = sum(path.stat().st_size for path in program.iterdir())
    ids = tiny("llama")[1].convert_tokens_to_ids(["Ġbad", "Ġpoor", "Ġgood"])
    assert lines[0] == f"{program}: 163 numbers on a frozen base"  # 5 slots of 32, two offsets, one flag
    for line in (
        "program   prompt: soft prompt vectors anywhere in the input (WARP, prompt tuning and their kin)",
        "          init_text: so good",
        "template  {prompt:3} {text} {prompt:2} it was{answer}",
        "          calibration: contextual",
        f"labels    negative  ' bad' {ids[0]}, ' poor' {ids[1]}",
        f"          positive  ' good' {ids[2]}",
        "          LlamaForCausalLM, width 32, float32, loaded by AutoModelForCausalLM",
        "training  data: rows 1305, train reviews",
        "          seed: 7",
        "result                  accuracy  loss",
        "          this program     0.844  0.41",
        "          majority         0.629",
        "          untrained        0.652   0.7",
        "tensors   mapping.fitted   1            uint8",
        "          program.0.slots  5 x 32       float32",
    ):
        assert line in lines
    assert f"size      {size:,} bytes: adapter_model.safetensors" in shown
    assert (
        f"weights    {hr.AutoReprogramModel.from_pretrained(program).peft_config['default'].fingerprint['weights']}"
        in shown
    )
    assert err == ""


def test_slots_started_from_words_lie_on_them(folder: Path, capsys: Capture) -> None:
    assert main(["inspect", str(folder / "program")]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("slots"))
    slots = [line for line in lines[start:] if line[:8].strip().isdigit()]
    assert len(slots) == 5
    # "so good" repeated over five slots, each at distance 0 from its own token
    for i, (line, word) in enumerate(zip(slots, ["so", " good", "so", " good", "so"], strict=True)):
        assert line.split()[0] == str(i) and f"{word!r:<19}  0.00" in line


def test_it_fits_and_steers_no_terminal(folder: Path, capsys: Capture) -> None:
    main(["inspect", str(folder / "program")])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[1:])) <= 100
    assert all(c.isprintable() or c == "\n" for c in shown)
    facts = {
        "name": "x\x1b[2J", "numbers": 1, "program": [], "canvas": None, "template": "\x1b]0;title\x07 {text}",
        "labels": ["a\rb", "c"], "fingerprint": None, "checksum": None,
        "mapping": {"type": "x", "about": "x", "options": {}, "chosen": []}, "words": {}, "bytes": {}, "tensors": [],
        "base": {"name": "a\nb", "class": "L\x9b", "width": None, "dtype": None, "auto_class": None}, "use": [],
        "training": {"note\x08": "x" * 300, "metrics": {"a\x00": 1}}, "slots": [],
    }  # fmt: skip
    made = page(facts)
    assert all(c.isprintable() or c == "\n" for c in made)
    assert max(map(len, made.splitlines())) <= 100
    assert "x\\x1b[2J" in made and "a\\rb" in made


def test_json_says_the_same(folder: Path, capsys: Capture) -> None:
    assert main(["inspect", str(folder / "program"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    config = hr.AutoReprogramModel.from_pretrained(folder / "program").peft_config["default"]
    assert facts["training"] == RECORD and facts["fingerprint"] == config.fingerprint
    assert facts["labels"] == ["negative", "positive"] and list(facts["words"]["negative"]) == [" bad", " poor"]
    assert facts["numbers"] == 163 and len(facts["slots"]) == 5
    assert facts["program"][0]["options"]["template"] == config.layout()
    assert facts["mapping"]["state"]["offset"] == pytest.approx(facts["mapping"]["state"]["offset"])


def test_without_its_base_it_says_what_is_left_out_and_how_to_get_it(
    saved: Callable[..., Path], capsys: Capture
) -> None:
    folder = saved(CONFIG)
    (folder / "base").rename(folder / "moved")
    assert main(["inspect", str(folder / "program")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "slots left out: its base" in shown and "could not be loaded" in shown and "--base MODEL" in shown
    assert "training no record" in shown and "' bad'" in shown
    assert main(["inspect", str(folder / "program"), "--base", str(folder / "moved")]) == 0
    assert "slots their nearest tokens" in " ".join(capsys.readouterr().out.split())
    assert main(["inspect", str(folder / "program"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slots"] is None


def test_a_given_base_must_be_the_right_one(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    base, tokenizer = tiny("llama", seed=1)
    base.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert main(["inspect", str(folder / "program"), "--base", str(tmp_path)]) == 2
    assert "made for a base with other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "family", "says"),
    [
        (hr.ReprogramConfig(program={"type": "prompt", "template": "{prompt:2} {text}"}), "llama", "labels    none"),
        (
            hr.ReprogramConfig(program={"type": "none", "template": "{text} is{answer}"}, mapping=CONFIG.mapping),
            "bert",
            "program   none: rows laid out and embedded as they are",
        ),
        (
            hr.ReprogramConfig(
                program={"type": "prompt", "template": "{prompt:2} {text}"},
                mapping=hr.LinearConfig(pool="mean", solver="gradient"),
                labels=["a", "b"],
            ),
            "t5",
            "mapping   linear: a linear map",
        ),
    ],
    ids=["no-mapping", "no-program", "linear"],
)
def test_other_kinds(
    saved: Callable[..., Path], capsys: Capture, config: hr.ReprogramConfig, family: str, says: str
) -> None:
    assert main(["inspect", str(saved(config, family) / "program")]) == 0
    shown = capsys.readouterr().out
    assert says in shown and ("slots " in shown) is (config.programs[0].type == "prompt")


def test_slots_far_from_every_token_are_marked(saved: Callable[..., Path], capsys: Capture) -> None:
    folder = saved(CONFIG)
    model = hr.AutoReprogramModel.from_pretrained(folder / "program")
    with torch.no_grad():
        model.active_programs()[0].slots[1] += 100
    model.save_pretrained(folder / "program")
    main(["inspect", str(folder / "program")])
    shown = capsys.readouterr().out
    assert "* farther than that: such neighbours mean nothing" in " ".join(shown.split())
    assert [line[:8] for line in shown.splitlines() if line[7:8] == "*"] == ["     1 *"]


def test_a_folder_without_a_program_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-reprogram: ") and "is not an artefact" in error and error.count("\n") == 1


def test_a_sound_says_how_loud_it_is(tmp_path: Path, capsys: Capture) -> None:
    base, extractor = tiny("wav2vec2-classifier")
    base.save_pretrained(tmp_path / "base")
    extractor.save_pretrained(tmp_path / "base")
    config = hr.ReprogramConfig(
        program={"type": "waveform_fir", "taps": 9}, mapping={"type": "linear", "on": "classes", "solver": "gradient"},
        labels=["a", "b"], canvas={"samples": 3200},
    )  # fmt: skip
    hr.get_reprogram_model(base, config, extractor).save_pretrained(tmp_path / "program")
    assert main(["inspect", str(tmp_path / "program"), "--base", str(tmp_path / "base")]) == 0
    shown = capsys.readouterr().out
    assert "sound     hertz 0, gain dB 0" in shown and "          hertz 8000, gain dB 0" in shown


def test_a_change_of_all_tokens_stands_below_the_slots(tmp_path: Path, capsys: Capture) -> None:
    base, tokenizer = tiny("bert-encoder")
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = hr.ReprogramConfig(
        program=[{"type": "prompt", "template": "{p:2} {text}"}, {"type": "embedding", "rank": 2}],
        mapping={"type": "linear", "pool": "mean", "solver": "gradient"}, labels=["a", "b"],
    )  # fmt: skip
    hr.get_reprogram_model(base, config, tokenizer).save_pretrained(tmp_path / "program")
    assert main(["inspect", str(tmp_path / "program"), "--base", str(tmp_path / "base")]) == 0
    shown = capsys.readouterr().out
    assert shown.index("slots ") < shown.index("tokens    map: mean change 0, largest 0, singular [0.0, 0.0]")
    assert "now nearest " in shown


@pytest.fixture(scope="module")
def hearing(saved: Callable[..., Path]) -> Path:
    """A program of sound, and a clip."""
    folder = saved(
        hr.ReprogramConfig(
            program="waveform", mapping={"type": "linear", "on": "classes", "solver": "gradient"},
            labels=["a", "b"], canvas={"samples": 3200},
        ),
        "wav2vec2-classifier",
    )  # fmt: skip
    row = AUDIO_ROWS[0]["audio"]
    soundfile.write(folder / "clip.wav", row["array"], row["sampling_rate"])
    return folder


class TestFigure:
    """`--figure FILE`, of the mapping, or with `--audio` of the program and a sound."""

    def test_it_is_left_beside_the_page(self, hearing: Path, tmp_path: Path, capsys: Capture) -> None:
        sizes = []
        for name, more in (("mapping.png", []), ("program.png", ["--audio", str(hearing / "clip.wav")])):
            assert main(["inspect", str(hearing / "program"), "--figure", str(tmp_path / name), *more]) == 0
            assert "canvas    3,200 samples" in capsys.readouterr().out
            made = (tmp_path / name).read_bytes()
            assert made.startswith(b"\x89PNG")
            sizes.append(int.from_bytes(made[16:20], "big"))
        assert sizes[0] != sizes[1]  # they are two figures

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--audio", "clip.wav"], "--audio: given without --figure"),
            (["--figure", "x.wav"], "--figure: .*x.wav could not be written .*Expected a .png"),
            (["--figure", "no/x.png"], "--figure: .*x.png could not be written"),
        ],
    )
    def test_what_cannot_be_drawn(self, hearing: Path, capsys: Capture, arguments: list[str], says: str) -> None:
        assert main(["inspect", str(hearing / "program"), *arguments]) == 2
        assert re.search(says, capsys.readouterr().err)

    @pytest.mark.parametrize(
        ("mapping", "family", "more", "fix"),
        [
            ({"type": "none"}, "wav2vec2-classifier", [], "--audio SOUND draws what the program does"),
            ({"type": "none"}, "bert", [], "leave --figure out"),
            (
                {"type": "linear", "solver": "gradient", "on": "source"},
                "llama",
                ["--audio", "clip.wav"],
                "leave --audio out: --figure alone draws the mapping",
            ),
        ],
    )
    def test_the_page_comes_all_the_same(
        self, saved: Callable[..., Path], tmp_path: Path, capsys: Capture,
        mapping: dict[str, str], family: str, more: list[str], fix: str,
    ) -> None:  # fmt: skip
        """Status 2: the file that was asked for is not there."""
        hears = family.startswith("wav")
        config = hr.ReprogramConfig(
            program="none" if hears else {"type": "none", "template": "{text} is{answer}"},
            mapping=mapping, labels=None if mapping["type"] == "none" else ["a", "b"],
            canvas={"samples": 3200} if hears else None,
        )  # fmt: skip
        figure = tmp_path / "x.png"
        assert main(["inspect", str(saved(config, family) / "program"), "--figure", str(figure), *more]) == 2
        out, err = capsys.readouterr()
        assert f"mapping   {mapping['type']}" in out
        assert err.startswith("hf-reprogram: --figure: ") and f"Fix: {fix}" in err and not figure.exists()
