"""The backbone: every family's row of data is proved, positions, generation, deepcopy, checkpointing."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    MvpConfig,
    MvpForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from hf_reprogram.backbone.base import tolerance
from hf_reprogram.backbone.families import FAMILIES as ROWS_OF_DATA
from hf_reprogram.backbone.families import Family
from hf_reprogram.backbone.probe import probe
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.batch import Batch
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import BaseModelError, UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import FAMILIES, ROWS, SLOW_FAMILIES, build, logits_of, program_config, tiny


_SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SEQ2SEQ = {"vocab_size": 97, "d_model": 32, "decoder_start_token_id": 0, "pad_token_id": 0}
_T5 = {**_SEQ2SEQ, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_GEMMA4 = {
    **_GROUPED, "head_dim": 8, "global_head_dim": 8, "vocab_size_per_layer_input": 97, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
_BART = {
    **_SEQ2SEQ, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
}  # fmt: skip

BASES: dict[str, tuple[type[PreTrainedModel], object]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**_GROUPED)),
    "mistral": (MistralForCausalLM, MistralConfig(**_GROUPED, sliding_window=4, head_dim=8)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**_GROUPED)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**_GROUPED, head_dim=8)),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**_GROUPED)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**_GROUPED, head_dim=8, sliding_window=4)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)),
    "bert": (BertForMaskedLM, BertConfig(**_SMALL)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**_SMALL, pad_token_id=1)),
    "albert": (AlbertForMaskedLM, AlbertConfig(**_SMALL, embedding_size=16)),
    "t5": (T5ForConditionalGeneration, T5Config(**_T5)),
    "t5-untied": (T5ForConditionalGeneration, T5Config(**_T5, tie_word_embeddings=False)),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**_T5)),
    "umt5": (UMT5ForConditionalGeneration, UMT5Config(**_T5)),
    "gemma4_text": (Gemma4ForCausalLM, Gemma4TextConfig(**_GEMMA4)),
    "bart": (BartForConditionalGeneration, BartConfig(**_BART)),
    "mvp-prompted": (MvpForConditionalGeneration, MvpConfig(**_BART, use_prompt=True, prompt_length=5)),
    "bart-scaled": (BartForConditionalGeneration, BartConfig(**_BART, scale_embedding=True)),
}


def _base(name: str) -> PreTrainedModel:
    """All parameters away from zero, so that a forgotten bias or scale shows (P§B)."""
    torch.manual_seed(0)
    if name in BASES:
        cls, config = BASES[name]
        base = cls(copy.deepcopy(config)).eval()
        for p in base.parameters():
            p.detach().normal_(std=0.3)
    else:
        base = tiny(name)[0]
    for key, bias in base.named_buffers():
        if key == "final_logits_bias":
            bias.normal_()
    return base


def test_every_row_of_data_is_proved_here() -> None:
    proved = {name.partition("-")[0] for name in BASES}
    proved |= {"remote_text"}  # in tests/sources/test_remote.py
    assert proved | {tiny(name)[0].config.model_type for name in (*FAMILIES, *SLOW_FAMILIES)} == set(ROWS_OF_DATA)


@pytest.mark.parametrize("name", [*BASES, *(name for name in (*FAMILIES, *SLOW_FAMILIES) if name not in BASES)])
def test_our_way_through_the_base_is_its_own(name: str) -> None:
    assert max(probe(TextBackbone(_base(name))).values()) < 1e-5


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bert", {"transform": ()}),  # P§B: error 2.4 without the transform
        ("bart", {"logits_bias": None}),
        ("bart", {"sides": ("right", "left")}),
        ("t5", {"state_scale": None}),
        ("gemma2", {"softcap": None}),
        ("roberta", {"transform": ("lm_head.dense", "lm_head.layer_norm")}),
        ("roberta", {"offset_positions": False}),  # T§0.2 4: error 1.2 with padding on the left
        ("pegasus", {"embed_scale": None}),
        ("pegasus", {"sides": ("right", "left")}),
        ("falcon_h1", {"embed_scale": None}),
        ("falcon_h1", {"logits_scale": None}),
        ("cohere", {"logits_scale": None}),
        ("granite", {"logits_divisor": None}),
        ("esm", {"logits_bias": None}),
        ("esm", {"reads_ids": False}),
        ("gemma3n", {"reads_ids": False}),
        ("umt5", {"state_scale": None}),
        ("electra", {"transform": ()}),
        ("rembert", {"transform": ()}),
        ("mobilebert", {"head_rest": None}),
        ("mobilebert", {"looks_beside": False}),
        ("m2m100", {"sides": ("right", "left")}),
        ("mbart", {"logits_bias": None}),
        ("mvp", {"embed_scale": None}),  # T§0.2 2
        ("led", {"sides": ("right", "left")}),
        ("switch", {"state_scale": None}),
        ("switch", {"sides": ("right", "left")}),  # padding takes the experts' places
    ],
)
def test_a_wrong_row_is_refused_with_the_numbers(name: str, wrong: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base(name)
    row = Family(**{**vars(ROWS_OF_DATA[base.config.model_type]), **wrong})
    monkeypatch.setitem(ROWS_OF_DATA, base.config.model_type, row)
    if (
        name == "electra" or wrong in ({"transform": ()}, {"head_rest": None}) and name != "bert"
    ):  # its states have not the size of its head
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            probe(TextBackbone(base))
        return
    with pytest.raises(BaseModelError, match=r"relative differences embeds .*, rows ") as error:
        probe(TextBackbone(base))
    assert str(tolerance(torch.float32)) in str(error.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("modernbert-classifier", {"classify_pool": None}),  # its first state, where it means over all
        ("distilbert-classifier", {"classify": ("pre_classifier", "classifier")}),
        ("deberta-classifier", {"classify": ("pooler.dense", "classifier")}),
        ("esm-encoder", {"reads_ids": False}),
    ],
)
def test_a_wrong_row_of_a_classifier_or_bare_model(name: str, wrong: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base(name)
    row = Family(**{**vars(ROWS_OF_DATA[base.config.model_type]), **wrong})
    monkeypatch.setitem(ROWS_OF_DATA, base.config.model_type, row)
    with pytest.raises(BaseModelError, match=r"does not compute .* relative differences embeds "):
        probe(TextBackbone(base))


def test_states_of_another_size_than_the_row_says_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPT's last projection gives states of its embeddings' size; a map on them must know."""
    assert TextBackbone(_base("opt")).state_size() == 16
    monkeypatch.setitem(ROWS_OF_DATA, "opt", Family(**{**vars(ROWS_OF_DATA["opt"]), "state": "hidden_size"}))
    with pytest.raises(BaseModelError, match="states of a OPTForCausalLM have 16 numbers. Expected 32"):
        probe(TextBackbone(_base("opt")))


def test_a_part_that_is_not_where_the_row_says() -> None:
    """DeBERTa-v2 has a second kind of head, which multiplies with the embeddings themselves."""
    base = DebertaV2ForMaskedLM(DebertaV2Config(**_SMALL, legacy=False))
    with pytest.raises(BaseModelError, match=r"no 'cls.predictions.transform', where FAMILIES\['deberta-v2'\] has"):
        TextBackbone(base)


def test_slots_are_as_wide_as_the_embedding_not_the_hidden_state() -> None:
    backbone = TextBackbone(_base("albert"))
    assert (backbone.width, backbone.state_size(), backbone.head.width) == (16, 32, 16)


def test_a_row_is_read_alike_beside_longer_ones_where_the_base_sees_padding() -> None:
    """MobileBERT embeds every token together with those beside it: its last one with the padding's vector."""
    base, tokenizer = tiny("mobilebert")
    ids = tokenizer(["a good film"], return_tensors="pt").input_ids
    padded, mask = (torch.nn.functional.pad(x, (0, 3), value=v) for x, v in ((ids, 1), (torch.ones_like(ids), 0)))
    backbone = TextBackbone(base)
    batch = Batch(padded, mask, embeds=backbone.embed(padded))
    with torch.no_grad():
        alone, own = base(ids).logits, base(padded, attention_mask=mask).logits[:, : ids.shape[1]]
        ours = backbone.base_output(batch).logits[:, : ids.shape[1]]
    assert (own - alone).abs().max() > 0.1  # the trap
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)
    model = build(program_config("prompt"), "mobilebert")
    with model.disable_adapter(), pytest.raises(UsageError, match="cannot skip them exactly"):
        model(**model.collator()([{"text": ROWS[0]["text"]}]))


def test_an_output_matrix_in_two_parts_is_one() -> None:
    """MobileBERT's: the embeddings, and what they lack of the hidden size."""
    backbone = TextBackbone(_base("mobilebert"))
    head, base = backbone.head, backbone.base
    weight, bias = head.rows(slice(None))
    assert (backbone.width, head.width, tuple(weight.shape)) == (16, 32, (head.size, 32))
    state = torch.randn(3, 32)
    own = base.cls(state)
    torch.testing.assert_close(state_logits := head.transform(state) @ weight.T + bias, own, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(head.logits(head.transform(state), None), own, atol=1e-4, rtol=1e-5)
    ids = torch.tensor([3, 1, 7])
    picked = head.log_probs(head.transform(state), ids)
    expected = state_logits.log_softmax(-1)[torch.arange(3), ids]
    torch.testing.assert_close(picked, expected, atol=1e-4, rtol=1e-5)
    base.cls.predictions.decoder.register_forward_hook(lambda *_: None)  # no bare matrix: it is run
    assert not head.sliceable
    torch.testing.assert_close(head.logits(head.transform(state), ids), own[:, ids], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rms_is_that_of_the_table(family: str) -> None:
    backbone = TextBackbone(tiny(family)[0])
    table = backbone.embedding.weight.detach().double()
    # T§0.2 1: the module scales what the table holds, or 2: its caller does
    scale = {"gemma2": 32**0.5}.get(family, 1)
    assert backbone.rms() == pytest.approx(scale * table.square().mean().sqrt().item(), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deep_copy_is_a_model_of_its_own(family: str) -> None:
    model = build(program_config("prompt", family), family)
    twin = copy.deepcopy(model)
    assert twin.backbone.base is not model.backbone.base
    assert twin.backbone.base is twin.reprogrammed.base
    assert torch.equal(logits_of(twin, ROWS), logits_of(model, ROWS))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_gradients_and_wakes_no_dropout(family: str) -> None:
    """N3: the base stays in eval, in which layers would skip checkpointing; N4: BART's layers hold dropout rates."""
    if family.startswith("albert"):
        with pytest.raises(BaseModelError, match="gradient_checkpointing: Albert.* has none"):
            build(program_config("prompt", family), family).activation_checkpointing_enable()
        return
    model = build(program_config("prompt", family), family)
    model.backbone.sharing = None  # a checkpointed base shares nothing: the same sums in another order
    gradients = []
    for on in (False, True):
        if on:
            model.activation_checkpointing_enable()
        model.train()
        model.zero_grad()
        model(**model.collator()(ROWS)).loss.backward()
        gradients.append(model.active_programs()[0].slots.grad.clone())
    assert torch.equal(*gradients)
    with pytest.raises(UsageError, match="use_reentrant"):
        model.activation_checkpointing_enable({"use_reentrant": True})
    before = [getattr(m, "dropout", None) for m in tiny(family)[0].modules()]
    model.unload()
    after = [getattr(m, "dropout", None) for m in model.backbone.base.modules()]
    assert [d for d in after if type(d) is float] == [d for d in before if type(d) is float]
    assert not any(m.training for m in model.backbone.base.modules())
    assert not model.backbone.base.is_activation_checkpointing


class TestGeneration:
    """New tokens only, equal to a loop by hand, equal for rows beside others (N32)."""

    def _model(self, family: str = "llama"):
        base, tokenizer = tiny(family)
        return get_reprogram_model(
            base, ReprogramConfig(program={"type": "prompt", "template": "{prompt:3} {text}"}), tokenizer
        )

    def test_equals_a_loop_by_hand(self) -> None:
        model = self._model()
        row = ROWS[:1]
        new = model.generate(row, max_new_tokens=4, do_sample=False)
        columns = model.collator()([{"text": row[0]["text"]}])
        batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
        embeds = batch.embeds
        for token in new[0]:
            logits = model.backbone.base(inputs_embeds=embeds).logits[0, -1]
            assert int(logits.argmax()) == int(token)
            embeds = torch.cat([embeds, model.backbone.embed(token.view(1, 1))], 1)

    def test_a_row_beside_longer_ones_gets_the_same_tokens(self) -> None:
        model = self._model()
        together = model.generate(ROWS, max_new_tokens=3, do_sample=False)
        for i, row in enumerate(ROWS):
            alone = model.generate([row], max_new_tokens=3, do_sample=False)
            assert together[i, : alone.shape[1]].tolist() == alone[0].tolist()

    @pytest.mark.parametrize("family", ["llama", "gemma3n"])
    def test_beams_of_a_row_beside_others(self, family: str) -> None:
        model = self._model(family)
        settings = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False}
        together = model.generate(ROWS[:2], **settings)
        for i, row in enumerate(ROWS[:2]):
            alone = model.generate([row], **settings)
            assert together[i, : alone.shape[1]].tolist() == alone[0].tolist()

    def test_a_family_that_reads_ids_writes_what_a_loop_by_hand_writes(self) -> None:
        """Its slots stand in for the embeddings of the first step only; new tokens alone come back."""
        model = self._model("gemma3n")
        new = model.generate(ROWS, max_new_tokens=3, do_sample=False)
        hooks = len(model.backbone.embedding._forward_hooks)
        for i, row in enumerate(ROWS):
            batch = model.reprogrammed.batch(**model.collator()([{"text": row["text"]}]))
            batch = model.reprogrammed.program(batch, model.backbone)
            for token in new[i]:
                logits = model.backbone.base_output(batch).logits[0, -1]
                assert int(logits.argmax()) == int(token)
                if token == model.backbone.base.config.eos_token_id:
                    break
                ids = torch.cat([batch.input_ids, token.view(1, 1)], 1)
                embeds = torch.cat([batch.embeds, model.backbone.embed(token.view(1, 1))], 1)
                batch = Batch(ids, torch.ones_like(ids), embeds=embeds)
        assert hooks == len(model.backbone.embedding._forward_hooks) == 0

    def test_rows_of_different_lengths_where_padding_on_the_left_is_not_exact(self) -> None:
        model = self._model()
        model.backbone.family = replace(model.backbone.family, sides=("right",))
        with pytest.raises(UsageError, match="generate: rows of different lengths, .* padding on the right only"):
            model.generate(ROWS, max_new_tokens=1)
        assert model.generate(ROWS[:1], max_new_tokens=1).shape == (1, 1)

    @pytest.mark.parametrize("family", ["t5"])
    def test_seq2seq(self, family: str) -> None:
        base, tokenizer = tiny(family)
        config = ReprogramConfig(program={"type": "prompt", "template": "{prompt:3} {text}"})
        model = get_reprogram_model(base, config, tokenizer)
        assert model.generate(ROWS, max_new_tokens=3).shape[0] == len(ROWS)


class TestKinds:
    """What a head gives decides what can be read; who cannot be fed is refused at once."""

    def test_a_class_without_a_head_for_us_is_refused(self) -> None:
        with pytest.raises(BaseModelError, match="BertForTokenClassification has no head that we can read"):
            TextBackbone(BertForTokenClassification(BertConfig(**_SMALL)))

    def test_an_encoder_and_decoder_without_head_is_refused(self) -> None:
        with pytest.raises(BaseModelError, match="AutoModelForSeq2SeqLM"):
            TextBackbone(BartModel(BartConfig(**_BART)))

    def test_a_classifier_that_takes_ids_only_is_refused(self) -> None:
        """Its forward makes decoder ids from token ids, which a program does not have."""
        with pytest.raises(BaseModelError, match="BartForSequenceClassification takes token ids only"):
            TextBackbone(BartForSequenceClassification(BartConfig(**_BART)))

    @pytest.mark.parametrize("family", [f for f in FAMILIES if f.endswith("classifier")])
    def test_classes_are_read_where_the_row_ends_not_where_the_batch_ends(self, family: str) -> None:
        """transformers' own causal classifiers read padding when they are fed embeddings, with a warning at most."""
        base, tokenizer = tiny(family)
        config = ReprogramConfig(program={"type": "none", "template": "{text}"})
        model = get_reprogram_model(base, config, tokenizer)
        rows = [{"text": row["text"]} for row in ROWS]
        collator = model.collator()
        ours = logits_of(model, rows)
        for i, row in enumerate(rows):
            ids = collator([row])["input_ids"]
            with torch.no_grad():
                torch.testing.assert_close(ours[i], base(input_ids=ids).logits[0], atol=1e-5, rtol=0)

    def test_positions_of_roberta_leave_two_rows_of_its_table(self) -> None:
        """T§0.1 6: 514 rows are 512 positions."""
        backbone = TextBackbone(RobertaForMaskedLM(RobertaConfig(**_SMALL, max_position_embeddings=514)))
        assert backbone.facts.max_length == 512

    def test_token_types_go_only_where_they_are_types(self) -> None:
        """T§0.1 5: GPT-2 looks them up among its words, and all zeros change its logits by 0.81."""
        for family, takes in (("gpt2", False), ("bert", True)):
            backbone = TextBackbone(tiny(family)[0])
            ids = torch.arange(5, 11).view(1, 6)
            batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), embeds=backbone.embed(ids))
            assert ("token_type_ids" in backbone._inputs(batch, backbone.base)) == takes


def test_slots_in_a_batch_are_skipped_while_disabled_or_refused() -> None:
    """N24: exact for models with position ids; T5's relative positions cannot skip a gap."""
    for family in ("llama", "bert"):
        model = build(program_config("prompt", family), family)
        rows = [{"text": row["text"]} for row in ROWS]
        with model.disable_adapter(), torch.no_grad():
            with_slots, without = model.collator()(rows), model.collator(disabled=True)(rows)
            answers = torch.arange(len(rows))
            a = model(**with_slots).logits[answers, with_slots["answer_index"]]
            b = model(**without).logits[answers, without["answer_index"]]
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    model = build(program_config("prompt"), "t5")
    with model.disable_adapter(), pytest.raises(UsageError, match="collator\\(disabled=True\\)"):
        model(**model.collator()(rows))


def test_a_classifier_with_fewer_names_than_outputs_is_refused() -> None:
    base, tokenizer = tiny("bert-classifier")
    base.config.id2label = {0: "good", 1: "bad"}
    with pytest.raises(BaseModelError, match="7 outputs of a BertForSequenceClassification with 2 names"):
        get_reprogram_model(base, program_config("prompt", "bert-classifier"), processing_class=tokenizer)
