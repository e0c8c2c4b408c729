"""Tokenizers of a few English words, one token each: enough for tiny bases."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors


_WORDS = re.findall(
    r"\w+",
    """a the it was is not very good great bad poor terrible fine film movie book phone works broke after week day
    and but so too this that my i love hate like would buy again never always review overall sentiment positive
    negative""",
)


def word_tokenizer(space: str) -> t.PreTrainedTokenizerFast:
    """One token per word, with a family's treatment of spaces and specials: `bytes` (byte-level BPE, a space is part
    of the word after it), `words` (BERT's) or `pieces` (SentencePiece, which sets a space before every text)."""
    specials = (
        ["<unk>", "<pad>", "<s>", "</s>", "<mask>"]
        if space == "words"
        else ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    )
    marks = {"bytes": ("", "Ġ"), "words": ("",), "pieces": ("▁",)}[space]
    vocabulary = specials + [mark + word for word in [*_WORDS, ":", ".", ","] for mark in marks]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if space == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        template = "<s> $A"
    elif space == "words":
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        template, names["mask_token"] = "<s> $A </s>", "<mask>"
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        template = "$A </s>"
    ids = [(token, vocabulary.index(token)) for token in specials]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return t.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


def letter_tokenizer() -> t.Wav2Vec2CTCTokenizer:
    """One token per letter, in capitals, as the English bases with a CTC head have them: 30 with their specials."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQ"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps({name: i for i, name in enumerate(names)}))
        return t.Wav2Vec2CTCTokenizer(str(file))
