"""A prompt is tokenised as the tokenizer's own files say, not as a bridge changes it."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import processors
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.tokens import one_prompt, prompt_ids, token_batch

BOS = 93


@pytest.fixture(scope="module")
def with_bos():
    """A model whose tokenizer's files put BOS before a text."""
    assert architectures.tokenizer()("w1").input_ids == [BOS, 1]
    return architectures.build("gpt2", dtype=torch.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model whose tokenizer puts nothing before a text; the bridge does."""
    folder = Path(tmp_path_factory.mktemp("tokenizer"))
    made = hf.PreTrainedTokenizerFast.from_pretrained(architectures.tokenizer().name_or_path)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    made.save_pretrained(folder)
    model = architectures.BUILDERS["gpt2"]().eval()
    model.config.architectures = [type(model).__name__]
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("w1").input_ids == [1]
    return TransformerBridge.boot_transformers("tiny", hf_model=model, tokenizer=tokenizer, device="cpu")


def test_bos_comes_first_where_the_tokenizers_files_put_it(plain, with_bos):
    assert plain.to_tokens("w1 w2")[0].tolist() == [BOS, 1, 2]  # what the bridge does
    assert prompt_ids(plain, "w1 w2").tolist() == [1, 2]
    assert prompt_ids(with_bos, "w1 w2").tolist() == [BOS, 1, 2]
    demo = tna.demo.load()
    assert demo.tokenizer.decode(prompt_ids(demo, "3 + 5 =")) == "<bos> 3 + 5 ="


def test_the_caller_decides_where_they_say(plain, with_bos, monkeypatch):
    for model in (plain, with_bos):
        assert prompt_ids(model, "w1 w2", prepend_bos=True).tolist() == [BOS, 1, 2]
        assert prompt_ids(model, "w1 w2", prepend_bos=False).tolist() == [1, 2]
    monkeypatch.setattr(with_bos.cfg, "default_prepend_bos", False)
    assert prompt_ids(with_bos, "w1 w2").tolist() == [1, 2]


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_a_bos_that_the_text_has_is_not_put_there_again(plain, with_bos, prepend_bos):
    for model in (plain, with_bos):
        assert prompt_ids(model, "<bos> w1 w2", prepend_bos=prepend_bos).tolist() == [BOS, 1, 2]


def test_tokens_that_begin_with_two_bos_are_warned_about(plain):
    with pytest.warns(UserWarning, match="tokens begin with '<bos>' twice"):
        token_batch(plain, torch.tensor([[BOS, BOS, 1]]))


def test_empty_and_overlong_prompts_are_refused(plain):
    with pytest.raises(ValueError, match="prompt is empty"):
        prompt_ids(plain, "")
    with pytest.raises(ValueError, match=r"prompt='w1 .ud800' holds a lone surrogate"):
        prompt_ids(plain, "w1 \ud800")
    assert len(prompt_ids(plain, " ".join(["w1"] * 64))) == 64
    with pytest.raises(ValueError, match="the prompt is 65 tokens, the model's context 64"):
        prompt_ids(plain, " ".join(["w1"] * 65))
    with pytest.raises(ValueError, match="tokens is empty"):
        token_batch(plain, torch.zeros(1, 0, dtype=torch.long))


def test_text_one_prompt_and_a_batch(plain):
    ids, batched = token_batch(plain, "w1 w2")
    assert ids.tolist() == [[1, 2]] and not batched
    assert token_batch(plain, torch.tensor([1, 2]))[1] is False
    assert token_batch(plain, torch.tensor([[1, 2]]))[1] is True
    with pytest.raises(ValueError, match="tokens hold 2 prompts"):
        one_prompt(plain, torch.tensor([[1, 2], [3, 4]]))
