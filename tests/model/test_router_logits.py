"""A router's logits by component: what is left without one, and heads in place of their layer."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tests.knowledge.test_router_scores import LAYER, router_of


@torch.no_grad()
def test_a_router_without_a_component_has_the_logits_without_its_parts():
    """The norm's scale held, the router is run on what is left of the stream."""
    model = architectures.build("mixtral")
    _, cache = model.run_with_cache(architectures.prompts(1))
    found = tna.router_scores(cache, LAYER)
    block = model.blocks[LAYER]
    for component, hook in enumerate(oracle.fed_by(cache, LAYER, "mlp")):
        left = cache[f"blocks.{LAYER}.hook_resid_mid"][0, 6] - cache[hook][0, 6]
        read = left / cache[f"blocks.{LAYER}.ln2.hook_scale"][0, 6] * block.ln2.w
        logits, _, chosen = router_of(model, "mixtral")(read[None])
        expected = found.contribution.sum(-1) - found.contribution[:, component]
        torch.testing.assert_close(logits[0], expected, atol=1e-6, rtol=0)
        assert set(chosen[0].tolist()) == set(expected.topk(2).indices.tolist())


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_heads_split_what_their_layer_adds(name):
    _, cache = architectures.build(name).run_with_cache(architectures.prompts(1))
    whole, split = (tna.router_scores(cache, LAYER, heads=heads) for heads in (False, True))
    own = [i for i, named in enumerate(split.components) if named.startswith("L1H") or named == "L1 attn bias"]
    assert len(own) == architectures.HEADS + 1
    summed = split.contribution[:, own].sum(-1)
    torch.testing.assert_close(summed, whole.contribution[:, whole.components.index("L1 attn")], atol=1e-6, rtol=0)
