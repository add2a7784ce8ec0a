"""Models by name: what each kind of name loads, and what a wrong one is told."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures


def test_the_bundled_model_and_a_directory(tmp_path):
    demo = tna.load("demo")
    assert demo.cfg.model_name == "tl_neuron_attr demo" and not demo.training
    model = architectures.BUILDERS["llama"]()
    model.save_pretrained(tmp_path)
    architectures.tokenizer().save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(tna.load(tmp_path, device="cpu")(ids), model.eval()(ids).logits, rtol=0, atol=1e-6)
    assert tna.load(tmp_path, dtype=torch.float64)(ids).dtype == torch.float64


def test_a_wrong_name_is_told_every_kind():
    with pytest.raises(OSError, match=r"'/no/such/folder' could not be loaded: .*gguf.* or one of demo, smollm2-135m"):
        tna.load("/no/such/folder")
