"""Models that are asked: each question once, and budgets that hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.backbone.probe import probe
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.errors import ArtefactError, BaseModelError, BudgetError, ConfigError, UsageError
from hf_reprogram.sources.channel import Channel
from hf_reprogram.testing import AUDIO_ROWS, tiny


def letters(texts: Sequence[str]) -> list[list[float]]:
    """Scores of a text: how many o, how many e, a tenth of its length."""
    return [[float(t.count("o")), float(t.count("e")), 0.1 * len(t)] for t in texts]


ROWS = [
    {"text": text, "label": label}
    for text, label in (("foo", "o"), ("eel", "e"), ("wood", "o"), ("bee", "e"), ("oboe", "o"), ("teepee", "e"))
]
CLASSES = ["o", "e", "long"]


class Asked:
    """Remembers what it was asked."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.seen: list[Any] = []
        self.fail_after = fail_after

    def __call__(self, inputs: Sequence[Any]) -> list[list[float]]:
        self.seen += inputs
        if self.fail_after is not None and len(self.seen) > self.fail_after:
            raise KeyboardInterrupt
        return letters(inputs)


class TestChannel:
    """Dedup, cache, budget."""

    def test_what_was_asked_costs_nothing(self, tmp_path: Path) -> None:
        ask = Asked()
        channel = Channel(ask, "letters", 3, cache=tmp_path / "a.db")
        first = channel(["foo", "bee", "foo"])
        assert ask.seen == ["foo", "bee"] and (channel.wanted, channel.sent) == (3, 2)
        np.testing.assert_allclose(first, letters(["foo", "bee", "foo"]), rtol=1e-6)
        again = Channel(Asked(fail_after=0), "letters", 3, cache=tmp_path / "a.db")
        np.testing.assert_array_equal(again(["bee", "foo"]), first[[1, 0]])
        assert again.sent == 0

    def test_a_wave_and_a_text_of_the_same_bytes_are_two_questions(self) -> None:
        channel = Channel(lambda given: [[float(isinstance(x, str))] for x in given], "kinds", 1)
        wave = np.frombuffer(b"abcd", dtype=np.float32)
        assert channel(["abcd"]).item() == 1.0 and channel([wave]).item() == 0.0

    def test_a_kill_loses_no_answer(self, tmp_path: Path) -> None:
        killed = Asked(fail_after=4)
        channel = Channel(killed, "letters", 3, cache=tmp_path / "a.db", together=2)
        with pytest.raises(KeyboardInterrupt):
            channel(list("abcdefgh"))
        ask = Asked()
        Channel(ask, "letters", 3, cache=tmp_path / "a.db", together=2)(list("abcdefgh"))
        assert ask.seen == list("efgh")

    def test_nothing_is_sent_beyond_the_budget(self) -> None:
        ask = Asked()
        channel = Channel(ask, "letters", 3, most=3)
        channel(["a", "b"])
        with pytest.raises(BudgetError, match="2 queries sent, 2 more are needed for this batch.*at most 3"):
            channel(["a", "c", "d"])
        assert ask.seen == ["a", "b"]
        channel(["a", "b", "c"])
        with pytest.raises(BudgetError, match="time is over"):
            Channel(ask, "letters", 3, seconds=0.0)(["x"])

    @pytest.mark.parametrize(
        ("change", "says"),
        [({"source": "other"}, "another source: 'letters' is not 'other'"), ({"outputs": 2}, "another outputs")],
    )
    def test_answers_of_another_source(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        given = {"source": "letters", "outputs": 3, "cache": tmp_path / "a.db"}
        Channel(letters, **given)(["a"])
        with pytest.raises(UsageError, match=says):
            Channel(letters, **{**given, **change})
        assert Channel(letters, **{**given, **change}, rebuild=True).known == {}

    def test_a_file_that_is_none_of_ours_and_a_place_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_bytes(b"no data base at all, but long enough to look at" * 40)
        for path in (tmp_path / "a.db", tmp_path / "no" / "a.db"):
            with pytest.raises(UsageError, match="could not be used.*rebuild=True"):
                Channel(letters, "letters", 3, cache=path)
        assert (tmp_path / "a.db").read_bytes().startswith(b"no data base")

    @pytest.mark.parametrize("together", [0, -1, 1.5])
    def test_no_inputs_at_once(self, together: Any) -> None:
        with pytest.raises(UsageError, match=f"together: {together}. Expected a whole number from 1"):
            Channel(letters, "letters", 3, together=together)

    def test_a_full_disk(self, tmp_path: Path) -> None:
        channel = Channel(letters, "letters", 3, cache=tmp_path / "a.db")
        channel(["a"])
        channel.file.execute("pragma max_page_count = 1")  # SQLite's own way to say that no room is left
        with pytest.raises(UsageError, match="full.*answers so far are whole"):
            for n in range(0, 20_000, 2000):
                channel([f"{i}" for i in range(n, n + 2000)])
        channel.file.close()
        assert Channel(Asked(fail_after=0), "letters", 3, cache=tmp_path / "a.db")(["a"]).shape == (1, 3)

    @pytest.mark.parametrize(
        "answer", [[[1.0, 2.0]], [[1.0, float("nan"), 0.0]], [3], ["o"], [[1.0, 2.0, 3.0]] * 2, None], ids=str
    )
    def test_answers_that_are_none(self, answer: Any) -> None:
        with pytest.raises(BaseModelError, match=r"ask\(inputs\).*\(1, 3\) finite scores"):
            Channel(lambda texts: answer, "letters", 3)(["a"])

    def test_numbers_of_classes(self) -> None:
        assert Channel(lambda texts: [2, 0], "firsts", 3)(["a", "b"]).tolist() == [[0, 0, 1], [1, 0, 0]]

    def test_yes_and_no_are_scores(self) -> None:
        assert Channel(lambda texts: [["a" in t, "b" in t] for t in texts], "has", 2)(["ab", "b"]).tolist() == [
            [1, 1],
            [0, 1],
        ]

    def test_noise_is_asked_for_once(self, tmp_path: Path) -> None:
        steps = iter([1.0, 1.5])
        channel = Channel(lambda texts: [[next(steps), 0.0] for _ in texts], "noisy", 2, cache=tmp_path / "a.db")
        assert channel.noise("a") == pytest.approx(0.5) and channel.sent == 2
        assert Channel(letters, "noisy", 2, cache=tmp_path / "a.db").noise("a") == pytest.approx(0.5)


class TestModels:
    """To the library they are classifiers."""

    def model(self, ask: Any = letters, mapping: Any = None, program: Any = None, **channel: Any) -> hr.ReprogramModel:
        base, tokenizer = hr.remote_text(ask, CLASSES, "letters@1", **channel)
        config = hr.ReprogramConfig(
            program=program or {"type": "none", "template": "Ö {text} !"},
            mapping=mapping or hr.LinearConfig(on="classes"),
            labels=["o", "e"],
        )
        return hr.get_reprogram_model(base, config, processing_class=tokenizer)

    def test_texts_come_as_the_template_lays_them_out(self) -> None:
        ask = Asked()
        model = self.model(ask)
        ask.seen.clear()
        model.fit_mapping(ROWS)
        assert sorted(ask.seen) == sorted(f"Ö {row['text']} !" for row in ROWS)
        assert model.evaluate(ROWS)["accuracy"] == 1.0
        assert len(ask.seen) == len(ROWS)  # known by then

    @pytest.mark.parametrize("mapping", ["labels", "bayesian", "prototype", "auto"])
    def test_maps_of_classes(self, mapping: str) -> None:
        model = self.model(mapping=mapping)
        model.fit_mapping(ROWS)
        assert model.evaluate(ROWS)["accuracy"] >= 0.8

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        model = self.model()
        model.fit_mapping(ROWS)
        model.save_pretrained(tmp_path)
        base, tokenizer = hr.remote_text(letters, CLASSES, "letters@1")
        again = hr.ReprogramModel.from_pretrained(base, tmp_path, processing_class=tokenizer)
        assert torch.equal(again.score(ROWS), model.score(ROWS))
        other, tokenizer = hr.remote_text(letters, CLASSES, "letters@2")
        with pytest.raises(hr.ArtefactError, match="is not .letters@2"):
            hr.ReprogramModel.from_pretrained(other, tmp_path, processing_class=tokenizer)

    def test_a_program_of_other_answers_or_of_another_order_is_refused(self, tmp_path: Path) -> None:
        base, tokenizer = hr.remote_text(letters, CLASSES, "letters@1")
        config = hr.ReprogramConfig(program="none", mapping=hr.LinearConfig(on="classes"), labels=["e", "o"])
        model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
        model.fit_mapping(ROWS)
        model.save_pretrained(tmp_path)
        for classes, source in ((["e", "o", "long"], "letters@1"), (CLASSES, "letters@2")):
            other, again = hr.remote_text(letters, classes, source)
            with pytest.raises(ArtefactError, match=f"'letters@1' for o, e, long is not '{source}' for {classes[0]}"):
                hr.AutoReprogramModel.from_pretrained(tmp_path, base_model=other, processing_class=again)

    def test_answers_for_classes_in_another_order_are_not_believed(self, tmp_path: Path) -> None:
        base, _ = hr.remote_text(letters, CLASSES, "letters", cache=tmp_path / "answers.db")
        base.model.channel(["foo"])
        with pytest.raises(UsageError, match="'letters' for o, e, long"):
            hr.remote_text(letters, ["e", "o", "long"], "letters", cache=tmp_path / "answers.db")[0].model.channel(
                ["foo"]
            )

    def test_sounds(self) -> None:
        base, extractor = hr.remote_audio(lambda waves: [[w.mean(), w.std()] for w in waves], ["mean", "std"], "stats")
        config = hr.ReprogramConfig(
            program="waveform", mapping=hr.LinearConfig(on="classes"), labels=["negative", "positive"]
        )
        model = hr.get_reprogram_model(base, config, processing_class=extractor)
        model.fit_mapping(AUDIO_ROWS)
        assert len(model.predict([row["audio"]["array"] for row in AUDIO_ROWS][:2] and AUDIO_ROWS)) == len(AUDIO_ROWS)

    def test_wrapping_asks_two_texts_as_anyone_might_write_them(self) -> None:
        """Many servers refuse an empty prompt, or odd bytes; both in one call, so that a wrong count of rows shows."""
        ask = Asked()
        self.model(ask)
        assert len(set(ask.seen)) == len(ask.seen) == 2
        assert all(text and text.isascii() and text.replace(" ", "").isalpha() for text in ask.seen)

    @pytest.mark.parametrize(
        "ask",
        [lambda texts: letters(texts)[:1], lambda texts: letters([*texts, "more"]), lambda texts: [[0.0, 1.0]] * 2],
    )
    def test_a_callable_of_another_shape_is_refused_when_it_is_wrapped(self, ask: Any) -> None:
        shape = np.shape(ask(["a", "b"]))
        with pytest.raises(BaseModelError, match=rf"of shape \({shape[0]}, {shape[1]}\) for 2 inputs and 3 classes"):
            self.model(ask)

    def test_its_row_of_data_is_proved(self) -> None:
        base, _ = hr.remote_text(letters, CLASSES, "letters")
        assert max(probe(TextBackbone(base)).values()) < 1e-5

    def test_no_gradient_and_no_vectors(self) -> None:
        model = self.model(program={"type": "none", "template": "{text}"})
        model.fit_mapping(ROWS)
        with pytest.raises(BaseModelError, match="no tokens"):
            self.model(program={"type": "prompt", "template": "{prompt:2} {text}", "init": "normal"}).fit_mapping(ROWS)
        base, _ = hr.remote_audio(lambda waves: [[0.0, 1.0]] * len(waves), ["a", "b"], "nothing")
        with pytest.raises(UsageError, match="fit_blackbox"):
            base(torch.zeros(1, 100, requires_grad=True))

    def test_words_without_a_tokenizer_are_bytes_and_the_way_out_is_told(self) -> None:
        with pytest.raises(ConfigError, match=r"' good' is no single token.*remote_text\(tokenizer="):
            self.model(program={"type": "words", "template": "{prompt:1} {text}", "words": [" good", " bad"]})

    def test_a_tokenizer_that_changes_texts(self) -> None:
        with pytest.raises(BaseModelError, match="keeps every character"):
            hr.remote_text(letters, CLASSES, "letters", tokenizer=tiny("bert")[1])


@pytest.mark.parametrize("classes", [["good", "good"], [], "good"])
def test_each_class_has_a_name_of_its_own(classes: Any) -> None:
    with pytest.raises(ConfigError, match=r"remote_text\(classes\).*each once"):
        hr.remote_text(lambda texts: [[0.0, 1.0] for _ in texts], classes, "s@1")
    with pytest.raises(ConfigError, match=r"remote_audio\(classes\).*each once"):
        hr.remote_audio(lambda waves: [[0.0, 1.0] for _ in waves], classes, "s@1")


def test_another_source_is_told_how_to_be_asked(tmp_path: Path) -> None:
    made = []
    for source in ("s@1", "s@2"):
        base, tokenizer = hr.remote_text(lambda texts: [[len(t), 1.0] for t in texts], ["a", "b"], source)
        config = hr.ReprogramConfig(
            program={"type": "none", "template": "{text}"}, mapping=hr.LinearConfig(on="classes"), labels=["x", "y"]
        )
        made.append(hr.get_reprogram_model(base, config, processing_class=tokenizer))
    made[0].save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="hr.remote_text or hr.remote_audio of the same source"):
        made[1].load_adapter(tmp_path, "other")
