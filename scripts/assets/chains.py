"""Masked language models of what is written in chains: antibodies (AntiBERTy), reactions (rxnfp).

They are sources that know a language other than English, or the target's own. Both are BERT with its head, one token
per symbol.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .asset import Asset, AssetError, Say


RESIDUES = r"\[[A-Z]+\]|[A-Z]"  # a special token, or one letter
# SMILES
ATOMS = r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # once more the embedding, the head's bias


def symbol_tokenizer(vocabulary: Sequence[str], pattern: str) -> Any:
    """A tokenizer of one token per match of a pattern, in BERT's brackets.

    Args:
        vocabulary: the tokens in order of their ids; those in square brackets and capitals are special.
        pattern: what one token looks like; all else is left out.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)


def _lay_out(package: zipfile.ZipFile, folder: Path, weights: str, vocabulary: Sequence[str], pattern: str) -> None:
    """A BertForMaskedLM from `weights` with the config beside it; heads of other tasks are left out."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    place = weights.rpartition("/")[0]
    facts = json.loads(package.read(f"{place}/config.json"))
    known = {name: value for name, value in facts.items() if name in BertConfig().to_dict()}
    own = {"model_type", "architectures", "_name_or_path", "transformers_version", "bos_token_id", "eos_token_id"}
    config = BertConfig(**{name: value for name, value in known.items() if name not in own})
    model = BertForMaskedLM(config)
    wanted = model.state_dict().keys()
    stored = torch.load(io.BytesIO(package.read(weights)), map_location="cpu", weights_only=True)
    missing = wanted - stored.keys() - TIED
    if missing:
        raise AssetError(f"{weights}: lacks {sorted(missing)}. Fix: install the tested set (constraints.txt)")
    model.load_state_dict({name: stored[name] for name in wanted & stored.keys()}, strict=False)
    model.tie_weights()
    model.save_pretrained(folder)
    symbol_tokenizer(vocabulary, pattern).save_pretrained(folder)


def _lay_out_antiberty(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """Its heads for species, chain and graft are left out."""
    vocabulary = package.read("antiberty/trained_models/vocab.txt").decode().split()
    weights = "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin"
    _lay_out(package, folder, weights, vocabulary, RESIDUES)


def _lay_out_rxnfp(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """The checkpoint that was trained on masked tokens alone."""
    place = "rxnfp/models/transformers/bert_pretrained"
    size = json.loads(package.read(f"{place}/config.json"))["vocab_size"]
    vocabulary = package.read(f"{place}/vocab.txt").decode().split("\n")[:size]
    _lay_out(package, folder, f"{place}/pytorch_model.bin", vocabulary, ATOMS)


ASSETS: dict[str, Asset] = {
    "antiberty": Asset(
        requirement="antiberty==0.1.3",
        sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
        licence="MIT",
        about="AntiBERTy, a BERT masked language model of antibodies of 25.8 M parameters, one token per residue",
        package_mb=97,
        folder_mb=103,
        lay_out=_lay_out_antiberty,
    ),
    "rxnfp-bert": Asset(
        requirement="rxnfp==0.1.0",
        sha256="c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
        licence="MIT",
        about="rxnfp, a BERT masked language model of chemical reactions (SMILES) of 6.7 M parameters",
        package_mb=75,
        folder_mb=27,
        lay_out=_lay_out_rxnfp,
    ),
}
