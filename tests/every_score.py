"""Every kind of result by name, to be compared between devices, placements and precisions."""

from typing import Any

import torch

import tl_neuron_attr as tna
from tl_neuron_attr import cna, evaluate


def scores(cache: Any) -> dict[str, torch.Tensor]:
    """Return every kind of score of a cache of two prompts."""
    value = tna.value_neurons(cache, 5, 10)
    layers, queries = tna.attribute_layers(cache, 5), tna.query_layers(cache, value)
    query = tna.query_neurons(cache, value, 5)
    return {
        "layers": layers.mlp + layers.attn,
        "heads": tna.attribute_heads(cache, 5),
        "positions": tna.attribute_head_positions(cache, 5),
        "mlp": tna.attribute_mlp_neurons(cache, 5),
        "attn": tna.attribute_attn_neurons(cache, 5),
        "value": value.score,
        "query": query.score,
        "query layers": queries.mlp + queries.attn,
        "contrast": tna.attribute_mlp_neurons(cache, torch.tensor([5, 6]), contrast=7, pos=torch.tensor([5, 4])),
    }


def runs(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every kind of result that runs a model again, of two prompts."""
    few, prompt = [(0, 1), (1, 0), (2, 3)], tokens[0]
    cache = model.run_with_cache(tokens[:1])[1]
    value = tna.value_neurons(cache, 5, 6)[0]
    neurons = ["L0N3", "L1H2D3", "L2N9"]
    with tna.ablate(model, neurons):
        ablated = model(tokens)
    verified = evaluate.verify(model, prompt, value, 5, progress=False)
    return {
        "few": tna.value_neurons(tna.run(model, tokens), 5, 10).score,
        "ablated": ablated,
        "heads": cna.head_effects(model, tokens, 5, heads=few, progress=False).log_prob.nan_to_num(),
        "verified": verified.neurons.effect,
        "estimated": evaluate.estimate_effects(model, tokens, 5, method="relevance").mlp_neurons,
        "traced": torch.tensor(tna.trace(cache, 5, k=5).to_frame()["weight"].to_list()),
        "compared": cna.compare_neurons(cache, model.run_with_cache(tokens[1:])[1], 5).increase,
        "flow": tna.logit_flow(cache, 5).mlp,
    }
