"""The comparison with the authors' numbers, on a stand-in whose numbers the float64 oracle computes.

The authors' weights cannot be had here, so what is tested is that their protocol (no BOS, the final norm's bias left
out) is followed and that disagreement is seen.
"""

import copy

import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr.knowledge.reproduce import paper_values, reproduce

PROMPT, TARGET = "w3 w1 w4 w1 w5", 9


@pytest.fixture(scope="module")
def model():
    return architectures.build("gpt2")


@pytest.fixture(scope="module")
def printed(model):
    """What the authors' notebook would print for the stand-in: their readout leaves ln_f.bias out."""
    stripped = architectures.build("gpt2")
    _, cache = stripped.run_with_cache(model.to_tokens(PROMPT, prepend_bos=False))
    with torch.no_grad():
        stripped.ln_final.b.zero_()
        attn, ffn, heads = {}, {}, []
        for layer in range(architectures.LAYERS):
            for site, into in (("attn", attn), ("mlp", ffn)):
                out = cache[f"blocks.{layer}.hook_{site}_out"][0, 4].double()
                into[str(layer)] = float(oracle.increase(cache, layer, site, 0, 4, out, TARGET))
            written = oracle.writes(cache, layer, "attn", 0, 4).sum((1, 2))
            scores = oracle.increase(cache, layer, "attn", 0, 4, written, TARGET)
            heads += [[layer, head, float(score)] for head, score in enumerate(scores)]
    mlp = oracle.neuron_scores(cache, "mlp", [4], [TARGET])[0]
    neurons = oracle.neuron_scores(cache, "attn", [4], [TARGET])[0]
    best = [list(at) for at in (neurons > neurons.flatten().topk(8).values[-1]).nonzero().tolist()]
    return {
        "prompt": PROMPT,
        "tokens": ["w3", "w1", "w4", "w1", "w5"],
        "target_id": TARGET,
        "layer_increase_attn": attn,
        "layer_increase_ffn": ffn,
        "head_increase_top": heads,
        "ffn_neurons_top10": [[0, int(mlp[0].argmax()), float(mlp[0].max())]],
        "attn_neurons_top (layer, head, dim, position)": [
            [layer, head, dim, source, float(neurons[layer, head, source, dim])] for layer, head, source, dim in best
        ],
    }


def test_the_oracles_numbers_are_reproduced(model, printed):
    result = reproduce(model, printed, tolerance=1e-6)
    assert result.agrees and "all within" in str(result)
    assert len(result.lines) == 6 + 12 + 1 + 7


def test_a_different_number_is_seen(model, printed):
    changed = copy.deepcopy(printed)
    changed["ffn_neurons_top10"][0][2] += 0.1
    result = reproduce(model, changed, tolerance=0.02)
    assert not result.agrees and "NOT all within" in str(result)
    assert [line.name for line in result.lines if line.difference > 0.02] == [
        f"L0N{changed['ffn_neurons_top10'][0][1]}"
    ]


def test_a_neuron_that_is_not_among_the_best_is_a_disagreement(model, printed):
    changed = copy.deepcopy(printed)
    changed["ffn_neurons_top10"] = [[77, 5, 0.3]]
    result = reproduce(model, changed)
    assert not result.agrees and result.lines[18].ours is None and "inf" in str(result)


def test_another_tokenizer_is_named(model, printed):
    with pytest.raises(ValueError, match=r"reads the prompt as \['<bos>', 'w3', .*this is not their tokenizer"):
        reproduce(model, printed | {"tokens": ["<s>", "w3"]})


@pytest.mark.parametrize("paper, lines", [("gpt2-large", 72), ("llama-7b", 64)])
def test_the_papers_values_are_complete(paper, lines):
    said = paper_values(paper)
    assert len(said["layer_increase_attn"]) + len(said["layer_increase_ffn"]) == lines
    assert said["ffn_neurons_top10"] and said["head_increase_top"]
