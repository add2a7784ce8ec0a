import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaForCausalLM

from tl_neuron_attr import demo
from tl_neuron_attr.demo.model import FOLDER
from tl_neuron_attr.demo.world_vocabulary import IDS, WORDS, encode


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return demo.load()


def test_it_loads_in_two_seconds_in_evaluation_mode(model: TransformerBridge):
    start = time.perf_counter()
    again = demo.load()
    assert time.perf_counter() - start < 2
    assert not again.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_it_loads_without_a_network():
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from tl_neuron_attr import demo\n"
        "model = demo.load()\n"
        "print(model.to_string(model('Tim Duncan plays the sport of')[0, -1].argmax()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["basketball"]


def test_other_types_are_honoured():
    half = demo.load(dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_everything_together_is_at_most_six_megabytes():
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) <= 6e6


def test_the_weights_were_trained_on_this_vocabulary(model: TransformerBridge):
    stored = json.loads((FOLDER / "tokenizer.json").read_text())["model"]["vocab"]
    assert stored == IDS
    assert model.cfg.d_vocab == len(WORDS)


@given(st.lists(st.sampled_from(WORDS[3:]), min_size=1, max_size=12))
def test_the_tokenizer_goes_there_and_back(words: list[str]):
    tokenizer = _bridge().tokenizer
    text = " ".join(words)
    ids = tokenizer(text)["input_ids"]
    assert ids == encode(text)
    assert tokenizer.decode(ids[1:]) == text


def test_leading_spaces_are_harmless(model: TransformerBridge):
    assert model.to_single_token(" basketball") == model.to_single_token("basketball") == IDS["basketball"]


def test_padding_is_on_the_left_and_changes_nothing(model: TransformerBridge):
    texts = ["3 + 5 =", "the mother tongue of Tim Duncan is"]
    tokens = model.to_tokens(texts)
    assert tokens[0, 0] == IDS["<pad>"] and tokens[0, -1] == IDS["="]
    together = model(texts)[:, -1]
    apart = torch.stack([model(t)[0, -1] for t in texts])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_the_bridge_equals_hugging_face(model: TransformerBridge):
    tokens = torch.tensor([encode("the capital of France is")])
    plain = LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), plain(tokens).logits, atol=1e-5, rtol=1e-5)


def test_the_weights_lie_inside_the_package():
    assert Path(demo.__file__).parent in FOLDER.parents


def _bridge() -> TransformerBridge:
    if not _LOADED:
        _LOADED.append(demo.load())
    return _LOADED[0]


_LOADED: list[TransformerBridge] = []
