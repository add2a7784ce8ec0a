from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.results.token_text import token_text


def pre_activations(model, value, i, *, normed):
    """What one neuron reads from each token's embedding alone, by the model's own norm and weights; its sign too."""
    layer, index, head = int(value.layer[i]), int(value.index[i]), int(value.head[i])
    block, embedded = model.blocks[layer], model.W_E
    is_mlp = int(value.site[i]) == 1
    if normed:
        norm = getattr(block, "ln2" if is_mlp and hasattr(block, "ln2") else "ln1")
        embedded = norm(embedded[:, None])[:, 0]
    if is_mlp:
        gate = getattr(block.mlp, "W_gate", None)
        return embedded @ (block.mlp.W_in if gate is None else gate)[:, index]
    W_V = block.attn.W_V
    return embedded @ W_V[head * len(W_V) // model.cfg.n_heads][:, index] * value.coefficient[i].sign()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:the model caps its logits")
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "cohere", "olmo2"])
def test_tokens_are_ranked_by_what_the_models_own_norm_and_keys_make_of_their_embeddings(name):
    model = architectures.build(name)
    model.W_E.mul_(50)  # as long as those of a trained model, so that the norm's epsilon decides nothing
    _, cache = model.run_with_cache(architectures.prompts(1))
    options = {"contrast": 7} if name == "gemma2" else {}
    for site in ("mlp", "attn"):
        value = tna.value_neurons(cache, 5, 5, sites=site, **options)[0]
        found = tna.key_tokens(model, value, k=4)
        assert found.labels == tuple(value.flat_labels)
        for i in range(5):
            order = pre_activations(model, value, i, normed=name != "olmo2").sort(descending=True).indices.tolist()
            texts = tuple(token_text(model, token) for token in order)
            assert (found.on[i], found.off[i]) == (texts[:4], texts[:-5:-1])


def test_the_sign_of_an_attention_neuron_turns_its_key_and_that_of_an_mlp_neuron_does_not():
    model = architectures.build("llama")
    _, cache = model.run_with_cache(architectures.prompts(1))
    for site, turns in (("attn", True), ("mlp", False)):
        value = tna.value_neurons(cache, 5, 4, sites=site)[0]
        plain, turned = (tna.key_tokens(cache, v, k=3) for v in (value, replace(value, coefficient=-value.coefficient)))
        assert (turned.on == plain.off) == turns and (turned.on == plain.on) != turns


def test_models_whose_stream_does_not_begin_with_the_embeddings_are_refused():
    model = architectures.build("bloom")
    _, cache = model.run_with_cache(architectures.prompts(1))
    with pytest.raises(ValueError, match="this model normalises them before its first layer"):
        tna.key_tokens(cache, tna.value_neurons(cache, 5, 2))


def test_arguments_out_of_range_are_refused_and_no_neurons_give_no_rows():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(architectures.prompts(1))
    value = tna.value_neurons(cache, 5, 3, sites=("mlp",))[0]
    for field in ("layer", "index"):
        with pytest.raises(IndexError, match=field):
            tna.key_tokens(model, replace(value, **{field: torch.full_like(value.layer, 99)}))
    with pytest.raises(ValueError, match="k must be between 1 and the vocabulary's 97"):
        tna.key_tokens(model, value, k=98)
    with pytest.raises(TypeError, match="an ActivationCache or a model"):
        tna.key_tokens(3, value)
    assert tna.key_tokens(model, value.pick([])).on == ()
