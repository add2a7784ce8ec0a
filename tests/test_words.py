import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.tokens import printable, visible


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bloom", "cohere"])
def test_promoted_tokens_are_those_whose_logit_the_neuron_raises(name):
    """Checked by reading out the model's own final norm and unembedding around the real stream."""
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts(1))
    sites = ("mlp",)
    value = tna.value_neurons(cache, 5, 6, sites=sites)[0] if name != "gemma2" else _capped(cache, sites)
    shown = tna.top_tokens(cache, value, k=3)
    for i in range(6):
        layer, index = int(value.layer[i]), int(value.index[i])
        write = value.coefficient[i] * model.blocks[layer].mlp.W_out[index]
        if name == "gemma2":
            write = write * (1 + model.blocks[layer].ln2_post.w)
        norm = model.ln_final
        centred = write if norm.uses_rms_norm else write - write.mean()
        logits = centred * (norm.w + (1 if norm.uses_weight_offset else 0)) @ model.W_U
        best = [f"w{t}" if t < 93 else model.to_string(t) for t in logits.topk(3).indices.tolist()]
        worst = [f"w{t}" if t < 93 else model.to_string(t) for t in (-logits).topk(3).indices.tolist()]
        assert shown.promoted[i] == tuple(best) and shown.suppressed[i] == tuple(worst)


def _capped(cache, sites):
    with pytest.warns(UserWarning, match="caps its logits"):
        return tna.value_neurons(cache, 5, 6, sites=sites)[0]


def test_a_negative_coefficient_swaps_promoted_and_suppressed():
    from dataclasses import replace

    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(1))
    value = tna.value_neurons(cache, 5, 8)
    plain, turned = (tna.top_tokens(model, v, k=4) for v in (value, replace(value, coefficient=-value.coefficient)))
    assert plain.promoted == turned.suppressed and plain.suppressed == turned.promoted


def test_neurons_of_another_model_are_refused():
    model = architectures.build("gpt2", dtype=torch.float32)
    _, cache = model.run_with_cache(architectures.prompts(1))
    from dataclasses import replace

    value = tna.value_neurons(cache, 5, 3, sites=("mlp",))
    for field, message in (("layer", "layer must lie between 0 and 2, got 99"), ("index", "index in layer")):
        with pytest.raises(IndexError, match=message):
            tna.top_tokens(model, replace(value, **{field: torch.full_like(value.layer, 99)}))
    for k in (0, 98):
        with pytest.raises(ValueError, match="k must be between 1 and the vocabulary's 97"):
            tna.top_tokens(model, value, k=k)


@pytest.mark.parametrize(
    "text, shown", [(" cat", "␣cat"), ("cat ", "cat␣"), ("  ", "␣␣"), ("", ""), ("a\nb", "a\\nb"), ("\t", "\\t")]
)
def test_spaces_and_control_characters_are_made_visible(text, shown):
    assert visible(text) == shown


def test_printable_keeps_what_can_be_printed():
    assert printable("ü漢 x") == "ü漢 x"
    assert printable("\x1b[31m") == "\\x1b[31m"
