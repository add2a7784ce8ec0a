"""Neurons of experts: sums, scores, subkeys and interventions against modules that are run without them."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.model.experts import experts_of
from tl_neuron_attr.model.intervene import ablate, edit
from tl_neuron_attr.model.stream import Stream

POS, TARGETS = torch.tensor([6, 4]), torch.tensor([5, 11])
MODES = [pytest.param(False, id="default"), pytest.param(True, id="compat")]
NAMES = list(architectures.EXPERTS)
DENSE_LAYER = {"qwen2_moe": 1}
SAME_IN_BOTH_MODES = [name for name in NAMES if name != "gpt_oss"]  # TransformerLens 4.3 changes GPT-OSS by folding


def close(got, expected, atol=1e-9):
    torch.testing.assert_close(got.double(), expected.double(), atol=atol, rtol=0)


def padded(scores, width):
    return torch.nn.functional.pad(scores, (0, width - scores.shape[-1]))


def of_the_oracle(cache):
    """Scores of every MLP neuron, narrower layers filled up with zeros."""
    rows = []
    for row, (pos, target) in enumerate(zip(POS.tolist(), TARGETS.tolist(), strict=True)):
        written = [oracle.writes(cache, layer, "mlp", row, pos) for layer in range(architectures.LAYERS)]
        rows.append([oracle.increase(cache, i, "mlp", row, pos, w, target) for i, w in enumerate(written)])
    width = max(len(scores) for row in rows for scores in row)
    return torch.stack([torch.stack([padded(scores, width) for scores in row]) for row in rows])


@torch.no_grad()
@pytest.mark.parametrize("compat", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_neuron_of_every_expert_scores_as_the_oracle_says(name, compat):
    _, cache = architectures.run(name, compat=compat)
    expected = of_the_oracle(cache)
    close(tna.attribute_mlp_neurons(cache, TARGETS, pos=POS), expected)
    assert (expected == 0).any() and (expected != 0).any()  # some experts were not routed to
    found = tna.value_neurons(cache, TARGETS, 25, sites="mlp", pos=POS)
    close(found.score, expected.flatten(1).sort(dim=1, descending=True).values[:, :25])
    lowest = tna.value_neurons(cache, TARGETS, 9, sites="mlp", pos=POS, largest=False)
    close(lowest.score, expected.flatten(1).sort(dim=1).values[:, :9])


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_an_expert_that_was_not_routed_to_writes_exactly_nothing(name):
    _, cache = architectures.run(name)
    stream = Stream(cache)
    layer = 2
    routing = stream.routing(layer, stream.last)
    assert ((routing != 0).sum(1) == 2).all()
    experts = stream.weights(layer).experts
    scores = tna.attribute_mlp_neurons(cache, 5)[:, layer, : experts.count * experts.width].unflatten(1, (-1, 20))
    assert torch.equal((scores != 0).any(2), routing != 0)


@torch.no_grad()
@pytest.mark.parametrize("name", SAME_IN_BOTH_MODES)
def test_compatibility_mode_changes_no_score_of_an_expert(name):
    plain, compat = (tna.attribute_mlp_neurons(architectures.run(name, compat=c)[1], 5) for c in (False, True))
    close(plain, compat, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_query_layers_equal_the_oracle(name):
    """The shares of all components in each value neuron's pre-activations, summed by component."""
    _, cache = architectures.run(name)
    value = tna.value_neurons(cache, TARGETS, 6, sites="mlp", pos=POS)
    got = tna.query_layers(cache, value, pos=POS)
    for row, pos in enumerate(POS.tolist()):
        expected = {}
        for layer, index, score in zip(
            value.layer[row].tolist(), value.index[row].tolist(), value.score[row], strict=True
        ):
            keys, fed = oracle.keys(cache, layer, "mlp", index), oracle.fed_by(cache, layer, "mlp")
            for key in keys:
                read = [oracle.norm_read(cache, layer, "mlp", row, pos, cache[h][row, pos].double()) @ key for h in fed]
                for hook, inner in zip(fed, read, strict=True):
                    expected[hook] = expected.get(hook, 0) + score / len(keys) * inner / sum(read)
        close(got.embed[row], expected["blocks.0.hook_resid_pre"], 1e-8)
        for layer in range(architectures.LAYERS):
            for site, scores in (("attn", got.attn), ("mlp", got.mlp)):
                own = expected.get(f"blocks.{layer}.hook_{site}_out", torch.zeros(()))
                close(scores[row, layer], torch.as_tensor(own), 1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_query_neurons_are_shares_of_what_the_layers_contributed(name):
    _, cache = architectures.run(name)
    value = tna.value_neurons(cache, TARGETS, 6, sites="mlp", pos=POS)
    query = tna.query_neurons(cache, value, 10_000, sites="mlp", pos=POS)
    layers = tna.query_layers(cache, value, pos=POS)
    for row in range(2):
        below = query.layer[row].unique().tolist()
        assert below
        for layer in below:
            if name == "gpt_oss":  # its biases are no neurons
                continue
            close(query.score[row][query.layer[row] == layer].sum(), layers.mlp[row, layer], 1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_ablation_by_hooks_is_a_run_with_the_weights_at_zero(name):
    model, tokens = architectures.build(name), architectures.prompts()
    untouched, cache = model.run_with_cache(tokens)
    value = tna.value_neurons(cache, TARGETS, 12, sites="mlp", pos=POS)
    chosen = [label for label in value.labels[0] if "E" in label]
    with ablate(model, chosen):
        hooked = model(tokens)
    columns = {}
    for label in chosen:
        layer, index = next(
            (la, i)
            for la, i, own in zip(value.flat("layer"), value.flat("index"), value.flat_labels, strict=True)
            if own == label
        )
        column = oracle.down_columns(model.blocks[layer].mlp.original_component)[index]
        columns[label] = (column, column.clone())
        column.zero_()
    expected = model(tokens)
    for column, before in columns.values():
        column.copy_(before)
    assert len(chosen) > 2 and (hooked - untouched).abs().max() > 1e-3
    close(hooked, expected)
    with edit(model, chosen):
        assert torch.equal(model(tokens), expected)
    assert torch.equal(model(tokens), untouched)


@torch.no_grad()
def test_each_prompt_loses_its_own_neurons():
    model, tokens = architectures.build("qwen2_moe"), architectures.prompts()
    _, cache = model.run_with_cache(tokens)
    value = tna.value_neurons(cache, TARGETS, 8, pos=POS)
    with ablate(model, value, scale=0.5):
        both = model(tokens)
    for row in range(2):
        with ablate(model, value[row], scale=0.5):
            close(both[row], model(tokens)[row], 1e-12)
    with pytest.raises(ValueError, match="neurons are of 2 prompts, but the model is run on 1"), ablate(model, value):
        model(tokens[:1])


def test_labels_name_the_expert_and_come_back_from_a_file(tmp_path):
    _, cache = architectures.run("qwen2_moe")
    value = tna.value_neurons(cache, TARGETS, 40, pos=POS)
    width = {
        (la, e): i - n
        for la, e, i, n in zip(*(value.flat(c) for c in ("layer", "expert", "index", "expert_index")), strict=True)
        if e >= 0
    }
    assert all(start == expert * 20 for (_, expert), start in width.items()) and {e for _, e in width} >= {0, 1, 2, 4}
    for label, layer, head, expert, inner, index in zip(
        value.flat_labels, *(value.flat(c) for c in ("layer", "head", "expert", "expert_index", "index")), strict=True
    ):
        mlp = f"L{layer}N{index}" if expert < 0 else f"L{layer}E{expert}N{inner}"
        assert label.startswith(f"L{layer}H") if head >= 0 else label == mlp
        assert not (layer == DENSE_LAYER["qwen2_moe"] and expert >= 0)
    value.save(tmp_path / "value.safetensors")
    assert tna.Neurons.load(tmp_path / "value.safetensors") == value
    assert [*value.to_frame()["expert"]] == value.flat("expert")
    assert value[1].top(3).labels == value.labels[1][:3]


@pytest.mark.parametrize(
    "label, error, match",
    [
        ("L0E5N0", IndexError, "expert of L0E5N0 must lie between 0 and 4, got 5"),  # the shared expert is number 4
        ("L0E0N20", IndexError, "neuron of L0E0N20 must lie between 0 and 19, got 20"),
        ("L9E0N0", IndexError, "layer of L9E0N0 must lie between 0 and 2"),
        ("L1E0N0", ValueError, "L1E0N0 names an expert, and layer 1 has none that can be read: L1N0"),
        ("L0N104", IndexError, "must lie between 0 and 103"),
    ],
)
def test_neurons_that_no_expert_has_are_refused(label, error, match):
    with pytest.raises(error, match=match), ablate(architectures.build("qwen2_moe"), [label]):
        pass


def test_a_label_and_its_number_are_one_neuron():
    model = architectures.build("qwen2_moe")
    with pytest.raises(IndexError, match="named twice"), ablate(model, ["L0E2N3", ("mlp", 0, 43)]):
        pass


def test_changed_experts_are_refused():
    model, tokens = architectures.build("mixtral"), architectures.prompts()
    _, cache = model.run_with_cache(tokens)
    value = tna.value_neurons(cache, 5, 6, sites="mlp")
    with edit(model, value[0], scale=3.0), pytest.raises(ValueError, match="the mlp neurons and biases do not sum"):
        tna.value_neurons(cache, 5, 6)
    with edit(model, value[0], scale=3.0), pytest.raises(ValueError, match="the mlp neurons and biases do not sum"):
        tna.query_layers(cache, value)


def test_a_cache_without_the_routing_is_refused_with_the_filter_that_keeps_it():
    model, tokens = architectures.build("mixtral"), architectures.prompts()
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: "hook_expert" not in name)
    with pytest.raises(ValueError, match=r"cache lacks blocks.0.mlp.gate.hook_expert_weights.*") as error:
        tna.value_neurons(cache, 5, 3)
    suffixes = eval(str(error.value).split("name.endswith(")[1][:-1])  # the filter that the error gives
    _, enough = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(suffixes))
    assert tna.value_neurons(enough, 5, 3).labels == tna.value_neurons(model.run_with_cache(tokens)[1], 5, 3).labels


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_router_is_named(value):
    model, tokens = architectures.build("mixtral"), architectures.prompts()

    def broken(weights, hook):
        return weights * value

    logits, cache = None, None
    with model.hooks(fwd_hooks=[("blocks.1.mlp.gate.hook_expert_weights", broken)]):
        logits, cache = model.run_with_cache(tokens)
    with pytest.raises(ValueError, match=r"blocks.1.mlp.hook_expert_weights holds NaN or Inf"):
        tna.value_neurons(cache, 5, 3)
    assert logits is not None


@torch.no_grad()
@pytest.mark.parametrize("name", ["deepseek_v2", "qwen2_moe"])
def test_a_routers_broken_weight_is_named(name):
    model = architectures.build(name)
    model.blocks[2].mlp.gate.original_component.weight[1, 3] = torch.nan
    _, cache = model.run_with_cache(architectures.prompts())
    with pytest.raises(ValueError, match=r"blocks\.2\.mlp router's weight holds NaN or Inf"):
        tna.value_neurons(cache, 5, 3)


def test_an_expert_of_a_dense_model_is_refused_with_the_label_it_has_there():
    model = architectures.build("llama")
    for change in (tna.ablate, tna.edit):
        with pytest.raises(ValueError, match="L1E0N7 names an expert, and layer 1 has none that can be read: L1N7"):
            change(model, ["L1E0N7"])


def test_methods_that_hook_single_neurons_refuse_experts():
    model = architectures.build("mixtral", dtype=torch.float32)
    with pytest.raises(ValueError, match="layer 1 is a mixture of experts, whose neurons have no hook"):
        tna.evaluate.verify_components(model, "w1 w2 w3", ["L1E0N7"], "w5", baseline="mean", progress=False)
    with pytest.raises(ValueError, match="the relevance rule follows attention, MLPs and norms with a hook"):
        tna.evaluate.estimate_effects(model, "w1 w2 w3", "w5", method="relevance")


def test_layers_of_several_widths_have_a_flow_and_a_report_and_no_grid_of_changes():
    model = architectures.build("qwen2_moe", dtype=torch.float32)
    _, cache = model.run_with_cache("w1 w2 w3 w4")
    flow = tna.trace(cache, 5, k=5, heads=4, queries=20)
    assert {"value", "head"} <= {kind for _, kind in flow.graph.nodes(data="kind")}
    assert "w4" in tna.vis.report(cache, 5, k=2, heads=2, queries=2).body
    with pytest.raises(ValueError, match=r"layers of this model differ in width \(\[104, 80, 104\]\)"):
        tna.compare_neurons(cache, cache, 5)
    assert not tna.cna.changed_neurons(cache, cache, 5, 3).score.any()


def test_a_mixture_with_a_norm_behind_its_experts_is_not_read():
    mlp = architectures.build("mixtral").blocks[0].mlp
    assert experts_of(mlp) is not None
    mlp.original_component.experts.has_post_expert_norm = True
    assert experts_of(mlp) is None


def test_a_cache_without_batch_dimension_gives_the_same():
    model, tokens = architectures.build("qwen2_moe"), architectures.prompts(1)
    _, cache = model.run_with_cache(tokens)
    scores = tna.attribute_mlp_neurons(cache, 5)
    cache.remove_batch_dim()
    assert torch.equal(tna.attribute_mlp_neurons(cache, 5), scores[0])
