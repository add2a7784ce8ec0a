import copy
from collections import Counter

import pytest
import torch

from tests import architectures
from tl_neuron_attr.model.fingerprint import model_fingerprint, require_no_hooks, tokenizer_fingerprint


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


def test_every_weight_counts(model):
    """Each parameter and buffer in turn, its last number changed by the smallest step."""
    before = model_fingerprint(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = parameter.view(-1)[-1:]
            kept = last.clone()
            last.copy_(torch.nextafter(kept, kept + 1))
            assert model_fingerprint(model) != before, name
            last.copy_(kept)
    assert model_fingerprint(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_models_of_every_dtype_have_one_and_it_is_told_by_dtype(dtype):
    found = {model_fingerprint(architectures.build("gpt2", dtype=d)) for d in (dtype, torch.float16)}
    assert len(found) == 2


def test_a_tokenizer_is_told_by_its_rules_and_not_by_what_it_was_last_asked(model):
    before = tokenizer_fingerprint(model)
    model.tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(model) == before
    other = copy.copy(model.tokenizer)
    other = type(other)(tokenizer_object=type(other.backend_tokenizer).from_str(other.backend_tokenizer.to_str()))
    other.add_tokens(["new"])
    model_like = type("Model", (), {"tokenizer": other, "cfg": model.cfg})
    assert tokenizer_fingerprint(model_like) != before


def test_active_hooks_are_named(model):
    require_no_hooks(model)
    add = model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: value)])
    ways = Counter(map(id, model.hook_dict.values()))
    names = [name for name, point in model.hook_dict.items() if ways[id(point)] == 1]
    for count in (3, 4):
        some = model.hooks(fwd_hooks=[(name, lambda value, hook: value) for name in names[:count]])
        with some, pytest.raises(ValueError, match="the model has active hooks at") as raised:
            require_no_hooks(model)
        assert ("and more" in str(raised.value)) == (count > 3)
    with add, pytest.raises(ValueError, match=r"the model has active hooks at .*blocks.1.hook_mlp_out: leave"):
        require_no_hooks(model)
    require_no_hooks(model)
