"""Tokenizers of the two common kinds, trained on a few sentences: byte-level BPE (GPT-2) and metaspace BPE (Llama)."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests import architectures

_TEXT = ["a great movie : foo an awful plot : bar", "the great plot was awful : bar", "foo bar : : great"] * 9
_BPE = {"vocab_size": 400, "special_tokens": ["<bos>", "<pad>", "<unk>"], "show_progress": False}


def model(kind: str) -> Any:
    """A tiny model with a tokenizer of a kind; good for making prompts, its vocabulary being too small to run them."""
    bridge = architectures.build("llama")
    bridge.tokenizer = tokenizer(kind)
    return bridge


@cache
def tokenizer(kind: str) -> Any:
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "byte_level":
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        raw.decoder = decoders.Metaspace()
        alphabet = list("abcdefghijklmnopqrstuvwxyz:\n")
    raw.train_from_iterator(_TEXT, trainers.BpeTrainer(initial_alphabet=alphabet, **_BPE))
    made = hf.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>")
    folder = Path(mkdtemp())
    made.save_pretrained(folder)
    return hf.AutoTokenizer.from_pretrained(folder)
