"""Inside a base for one call: hooks act where their names say, and are gone after it, whatever happened."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_reprogram.backbone import backbone_of
from hf_reprogram.backbone.inside import attention_of, replaceable
from hf_reprogram.batch import Batch, Reading
from hf_reprogram.errors import UsageError
from hf_reprogram.testing import AUDIO_FAMILIES, flags, tiny
from hf_reprogram.testing.audio import AUDIO_KIN, CANVAS


LAYERED = [family for family in (*AUDIO_FAMILIES, *AUDIO_KIN) if family != "attentionrnn-classifier"]


def _batch(backbone: Any, *hooks: tuple[str, Any]) -> Batch:
    generator = torch.Generator().manual_seed(3)
    samples = backbone.facts.canvas if backbone.facts.longest else CANVAS
    return Batch(input_values=0.1 * torch.randn(2, samples, generator=generator), hooks=hooks)


@pytest.mark.parametrize("family", LAYERED)
def test_places(family: str) -> None:
    """The layers are the encoder's own, in order; a hook before, behind and at the output sees (batch, positions,
    width); afterwards nothing is left."""
    backbone = backbone_of(*tiny(family))
    assert len(backbone.layers[1]) == 2 and attention_of(backbone.layers[1][0]) is not None
    seen: dict[str, torch.Size] = {}
    hooks = (
        ("layer:1", lambda module, args, kwargs: seen.update(before=args[0].shape)),
        ("layer:1:after", lambda module, args, kwargs, out: seen.update(after=_states(out).shape)),
        ("output:after", lambda module, args, kwargs, out: seen.update(output=_states(out).shape)),
    )
    found = flags(backbone.base)
    with torch.no_grad():
        backbone.run(_batch(backbone, *hooks), Reading("state", pool="mean"))
    assert seen["before"] == seen["after"] and seen["output"][::2] == (2, backbone.width)
    assert flags(backbone.base) == found


def _states(out: Any) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out[0]


def test_positions_and_lead() -> None:
    """Whisper halves its 100 frames. AST has two positions of its own before its patches."""
    whisper, ast = backbone_of(*tiny("whisper-classifier")), backbone_of(*tiny("ast-classifier"))
    assert (whisper.positions(16_000), whisper.positions(4_800), whisper.lead) == (50, 15, 0)
    assert ast.lead == 2 and ast.positions(ast.facts.canvas) > 2


def test_a_base_without_layers_has_no_inside() -> None:
    assert "latent" not in backbone_of(*tiny("attentionrnn-classifier")).stages


def test_nothing_is_left_when_a_call_fails() -> None:
    """Neither a hook nor another attention, when a hook, the base or the name of a place is wrong."""
    backbone = backbone_of(*tiny("wav2vec2-classifier"))
    found, attention = flags(backbone.base), backbone.base.config._attn_implementation

    def fails(*_: Any) -> None:
        raise RuntimeError("on purpose")

    for place, error in (("layer:1", RuntimeError), ("attention:1", RuntimeError), ("layr:1", UsageError)):
        with pytest.raises(error):
            backbone.run(_batch(backbone, ("layer:0", lambda *_: None), (place, fails)), Reading("classes"))
        assert flags(backbone.base) == found and backbone.base.config._attn_implementation == attention


def test_attention_that_is_added_to() -> None:
    """Zeros change nothing, not a bit; ones of one layer do; the next call is the base's own."""
    backbone = backbone_of(*tiny("whisper-seq2seq"))
    assert replaceable(backbone.base)
    reading = Reading("rows")

    def adds(value: float) -> Any:
        return lambda query, scaling: torch.full_like(query.transpose(1, 2), value)

    with torch.no_grad():
        plain = backbone.run(_batch(backbone), reading).values
        same = backbone.run(_batch(backbone, ("attention:0", adds(0.0))), reading).values
        other = backbone.run(_batch(backbone, ("attention:0", adds(1.0))), reading).values
        again = backbone.run(_batch(backbone), reading).values
    assert torch.equal(plain, same) and torch.equal(plain, again) and not torch.allclose(plain, other)
