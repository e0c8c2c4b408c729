"""The prompt: starts, the lookup by hand, what it says of itself."""

from __future__ import annotations

import pytest
import torch

from hf_reprogram.batch import Batch
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, TemplateError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.programs.base import banked
from hf_reprogram.programs.prompt import PromptConfig
from hf_reprogram.testing import LANGUAGE_MODELS, tiny


TEMPLATE = "{prompt:3} {text} {prompt:2} it was{answer}"
WORDS = {"type": "verbalizer", "words": {"a": [" bad"], "b": [" good"]}}


def _model(family: str = "llama", seed: int = 0, **options: object) -> ReprogramModel:
    base, tokenizer = tiny(family)
    config = ReprogramConfig(program=PromptConfig(**{"template": TEMPLATE, **options}), mapping=WORDS)
    return get_reprogram_model(base, config, tokenizer, seed=seed)


class _Table:
    """A backbone that embeds token i as (i, i)."""

    @staticmethod
    def embed(ids: torch.Tensor) -> torch.Tensor:
        return ids.float().unsqueeze(-1).expand(*ids.shape, 2)


class TestLookup:
    """embeds = where(slot_index >= 0, bank[offset[owner] + slot_index], embed(ids))."""

    ids = torch.tensor([[7, 1, 1], [1, 8, 9]])
    index = torch.tensor([[-1, 0, 1], [0, -1, -1]])

    def test_one_program(self) -> None:
        slots = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
        embeds = banked([slots], None, Batch(self.ids, slot_index=self.index), _Table).embeds
        by_hand = [[[7.0, 7.0], [0.1, 0.2], [0.3, 0.4]], [[0.1, 0.2], [8.0, 8.0], [9.0, 9.0]]]
        torch.testing.assert_close(embeds, torch.tensor(by_hand))

    def test_each_row_its_own_program(self) -> None:
        first, second = torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.tensor([[0.5, 0.6]])
        batch = Batch(self.ids, slot_index=self.index)
        embeds = banked([first, second], torch.tensor([0, 1]), batch, _Table).embeds
        assert embeds[0, 1].tolist() == pytest.approx([0.1, 0.2])
        assert embeds[1, 0].tolist() == pytest.approx([0.5, 0.6])

    def test_plain_input_ids_are_refused(self) -> None:
        with pytest.raises(UsageError, match="slot_index.*collator"):
            _model()(input_ids=torch.tensor([[5, 6]]))


class TestStart:
    """Every start lies on the base's own scale (U§1: random starts far off the embeddings do not learn)."""

    def test_words_one_text_per_group(self) -> None:
        model = _model(init_text=[" this film", " very good book"])
        tokenizer, backbone = model.processing_class, model.backbone
        ids = tokenizer(" this film this very good", add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(model.active_programs()[0].vectors(), backbone.vectors(ids), atol=1e-6, rtol=0)

    def test_one_text_for_all_groups(self) -> None:
        model = _model(init_text=" this film was very good")
        ids = model.processing_class(" this film was very good", add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(
            model.active_programs()[0].vectors(), model.backbone.vectors(ids), atol=1e-6, rtol=0
        )

    def test_vocabulary_rows_are_rows_of_the_table(self) -> None:
        model = _model(init="vocab")
        table = model.backbone.vectors(range(model.backbone.vocab_size))
        assert (torch.cdist(model.active_programs()[0].vectors(), table).min(1).values < 2e-3).all()

    def test_mask(self) -> None:
        model = _model("bert", init="mask")
        mask = model.backbone.vectors([model.processing_class.mask_token_id] * 5)
        torch.testing.assert_close(model.active_programs()[0].vectors(), mask, atol=1e-6, rtol=0)

    def test_mask_without_a_mask_token(self) -> None:
        with pytest.raises(ConfigError, match="no mask token"):
            _model("llama", init="mask")

    @pytest.mark.parametrize("family", LANGUAGE_MODELS)
    @pytest.mark.parametrize("init", ["vocab", "normal"])
    def test_size_is_that_of_embeddings(self, init: str, family: str) -> None:
        """T§0.2 14: norm ratio between 0.5 and 2; in our units the root mean square is about 1."""
        assert 0.5 < _model(family, init=init).active_programs()[0].slots.square().mean().sqrt() < 2

    def test_seed(self) -> None:
        a, b, c = (_model(init="normal", seed=s).active_programs()[0].slots for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.equal(a, c)

    def test_slots_are_clones_not_rows_of_the_base(self) -> None:
        model = _model(init="vocab")
        before = model.backbone.embedding.weight.detach().clone()
        with torch.no_grad():
            model.active_programs()[0].slots.add_(1)
        assert torch.equal(model.backbone.embedding.weight, before)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"template": "{text}{answer}"}, TemplateError, "no slots"),
        ({"init": "wrods"}, ConfigError, "did you mean 'words'"),
        ({"init": "words"}, ConfigError, "init_text"),
        ({"init": "vocab", "init_text": "x"}, ConfigError, "init='words'"),
        ({"init_text": ["a", "b", "c"]}, ConfigError, "one per group of slots: 2"),
        ({"init_text": " "}, ConfigError, "at least one word"),
    ],
)
def test_options(options: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        PromptConfig(**{"template": TEMPLATE, **options})


class TestExplain:
    """Near slots name their token, far ones say that they mean nothing."""

    def test_a_token_is_near_itself(self) -> None:
        model = _model(init_text=" this film was very good")
        page = model.explain()
        assert [row["tokens"][0].strip() for row in page["slots"]] == ["this", "film", "was", "very", "good"]
        assert all(row["distances"][0] < 1e-3 and not row["far"] for row in page["slots"])
        assert "has no meaning" not in str(page)

    def test_a_far_slot_says_so(self) -> None:
        model = _model()
        with torch.no_grad():
            model.active_programs()[0].slots[0] = 50.0
        page = model.explain()
        assert page["slots"][0]["far"]
        assert "far from every token" in str(page) and "no meaning" in str(page)
