"""The best neurons against a ranking of every neuron the oracle scored."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle

TARGET, POS = 5, 6


def ranked(cache, sites, *, largest):
    """Every neuron's label and score by the oracle, best first."""
    found = {}
    for site in sites:
        for at, score in enumerate(oracle.neuron_scores(cache, site, [POS], [TARGET])[0].flatten().tolist()):
            if site == "mlp":
                layer, i = divmod(at, architectures.D_MLP)
                found[f"L{layer}N{i}"] = score
            else:
                width = architectures.D_MODEL // architectures.HEADS
                sizes = (architectures.LAYERS, architectures.HEADS, POS + 1, width)
                layer, head, source, j = (int(n) for n in torch.unravel_index(torch.tensor(at), sizes))
                found[f"L{layer}H{head}D{j}@{source}"] = score
    return sorted(found.items(), key=lambda item: -item[1] if largest else item[1])


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("sites", [("mlp",), ("attn",), ("mlp", "attn")])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_best_of_all_neurons_are_found_in_order(name, sites, largest):
    _, cache = architectures.run(name, batch=1)
    expected = ranked(cache, sites, largest=largest)[:20]
    found = tna.value_neurons(cache, TARGET, 20, sites=sites, largest=largest)[0]
    assert found.labels == [label for label, _ in expected]
    assert found.score.tolist() == pytest.approx([score for _, score in expected], abs=1e-6)
