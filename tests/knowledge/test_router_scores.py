"""Router scores against loops over components and experts, and against what the router does without a component."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle

LAYER = 2
HIDDEN = {"deepseek_v2": "gate", "ernie4_5_moe": "gate", "afmoe": "router.gate", "llama4": "router"}
ROUTERS = {name: HIDDEN.get(name, "gate") for name in architectures.EXPERTS} | {
    "gpt_oss": "router",
    "granite_moe": "router",
}


def router_of(model, name):
    """The router's module, as transformers has it."""
    module = model.blocks[LAYER].mlp.original_component
    for part in ROUTERS[name].split("."):
        module = oracle.unwrapped(getattr(module, part))
    return module


@torch.no_grad()
@pytest.mark.parametrize("name", list(architectures.EXPERTS))
def test_parts_are_each_component_through_the_norm_and_the_routers_row(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts(1))
    router = router_of(model, name)
    for pos in (6, 3):
        got = tna.router_scores(cache, LAYER, pos)
        fed = oracle.fed_by(cache, LAYER, "mlp")
        assert len(got.components) == len(fed) + 1 and got.components[:3] == ("embed", "L0 attn", "L0 mlp")
        for component, hook in enumerate(fed):
            read = oracle.norm_read(cache, LAYER, "mlp", 0, pos, cache[hook][0, pos].double())
            for expert, row in enumerate(router.weight.double()):
                assert float(got.contribution[expert, component]) == pytest.approx(float(read @ row), abs=1e-9)
        logits = torch.nn.functional.linear(
            cache[f"blocks.{LAYER}.mlp.hook_in"][0, pos].double(), router.weight.double()
        )
        logits = logits + (0 if getattr(router, "bias", None) is None else router.bias.double())
        torch.testing.assert_close(got.contribution.sum(-1), logits, atol=1e-6, rtol=0)  # some norms compute in float32
        torch.testing.assert_close(got.logit, logits, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            got.score.sum(-1), got.contribution.sum(-1) - got.contribution.sum(-1).mean(), atol=1e-9, rtol=0
        )


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v2", "llama4", "qwen2_moe"])
def test_the_chosen_experts_are_those_that_wrote(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts(1))
    found = tna.router_scores(cache, LAYER)
    scores = tna.attribute_mlp_neurons(cache, 5)[0, LAYER]
    wrote = [e for e in range(4) if scores[20 * e : 20 * (e + 1)].any()]
    assert sorted(found.chosen) == wrote and len(wrote) == 2
    assert found.routing[6, found.chosen[0]] >= found.routing[6, found.chosen[1]] > 0
    for expert in range(4):
        assert (6 in found.positions_of(expert)) == (expert in wrote)
    if name in ("mixtral", "qwen2_moe", "llama4"):  # routers that choose the largest logits, without a bias or groups
        assert set(found.chosen) == set(found.logit.topk(2).indices.tolist())


def test_table_and_frame_name_the_experts_chosen_and_the_tokens_sent_there():
    model = architectures.build("qwen2_moe", dtype=torch.float32)
    _, cache = model.run_with_cache("w1 w2 w3 w4 w5 w6 w7")
    found = tna.router_scores(cache, LAYER)
    first = found.chosen[0]
    row = found.table().rows[0]
    assert row[0] == f"L{LAYER}E{first}" and row[1] == pytest.approx(float(found.routing[-1, first]))
    best = int(found.score[first].argmax())
    assert row[3] == f"{found.components[best]} {float(found.score[first, best]):+.3f}"
    sent = found.positions_of(first)
    assert f"{found.tokens[sent[0]]}@{sent[0]}" in row[5] and ("more" in row[5]) == (len(sent) > 5)
    frame = found.to_frame()
    assert len(frame) == 4 * len(found.components)
    assert sorted(frame[frame.chosen].expert.unique()) == sorted(found.chosen)
    assert frame[frame.expert == first].contribution.sum() == pytest.approx(float(found.logit[first]), abs=1e-4)


def test_what_no_router_says_is_refused():
    model, tokens = architectures.build("qwen2_moe"), architectures.prompts(1)
    _, cache = model.run_with_cache(tokens)
    with pytest.raises(ValueError, match=r"layer 1 has no router that can be read; those of layers \[0, 2\] can"):
        tna.router_scores(cache, 1)
    with pytest.raises(IndexError, match="layer must lie between 0 and 2, got 3"):
        tna.router_scores(cache, 3)
    with pytest.raises(IndexError, match="expert must lie between 0 and 3, got 4"):
        tna.router_scores(cache, 0).positions_of(4)  # the shared expert is everywhere, and no router's choice
    _, dense = architectures.run("llama", batch=1)
    with pytest.raises(ValueError, match="layer 0 has no router: this model is no mixture of experts"):
        tna.router_scores(dense, 0)
    with pytest.raises(ValueError, match="cache holds 2 prompts; router_scores is of one"):
        tna.router_scores(model.run_with_cache(architectures.prompts(2))[1], 0)
    router_of(model, "qwen2_moe").weight.data[0] *= 2
    with pytest.raises(ValueError, match="do not add up to the router's logits of layer 2"):
        tna.router_scores(cache, LAYER)
    _, few = architectures.build("deepseek_v2").run_with_cache(tokens, names_filter=lambda n: "gate.hook_out" not in n)
    with pytest.raises(ValueError, match="cache holds no logits of the router of layer 2"):
        tna.router_scores(few, LAYER)
