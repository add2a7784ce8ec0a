"""Words told from byte fragments, continuations, punctuation and reserved tokens."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_neuron_attr.model.readable_tokens import ReadableTokens, best_tokens


def test_a_byte_level_tokenizers_words():
    pieces = ["ĠParis", "aris", "ĠÃ©tÃ©", "Ã", "ĠÃ", "Ġ,", "Ġ42", "Ġ", "Ġdon't"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.add_tokens([AddedToken(" unused", special=False)])
    readable = ReadableTokens(SimpleNamespace(tokenizer=fast))
    assert [piece for i, piece in enumerate(pieces) if readable(i)] == ["ĠParis", "ĠÃ©tÃ©", "Ġ42"]
    assert not any(readable(i) for i in range(len(pieces), len(fast)))


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="readable=True needs a tokenizer"):
        ReadableTokens(SimpleNamespace(tokenizer=None))


def test_the_best_words_come_with_the_number_of_better_tokens_left_out():
    values = torch.tensor([0.1, 0.9, 0.5, 0.8, 0.2, 0.7])  # tokens 1, 3, 5, 2, 4, 0
    assert best_tokens(values, 2, None) == ([1, 3], 0)
    assert best_tokens(values, 2, lambda token: token != 3) == ([1, 5], 1)
    assert best_tokens(values, 1, lambda token: token == 0) == ([0], 5)
    assert best_tokens(values, 3, lambda token: token in (3, 2)) == ([3, 2], 4)
