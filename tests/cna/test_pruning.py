import pytest
import torch

from tests import architectures
from tl_neuron_attr import ablate, cna, edit
from tl_neuron_attr.cna import pruning

KEPT = [("mlp", 1, 70), ("mlp", 1, 3), ("mlp", 2, 0), ("mlp", 2, 41), ("mlp", 2, 79)]


def state(model):
    return {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}


def same(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.original_model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "structured"),
    [
        (name, structured)
        for name in architectures.DENSE
        for structured in (False, True)
        if not structured or name != "phi3"
    ],
)
def test_only_the_listed_neurons_write(name, structured):
    model, tokens = architectures.build(name), architectures.prompts()
    before = state(model)
    width = len(model.blocks[0].mlp.W_out)
    gone = [("mlp", la, i) for la in (1, 2) for i in range(width) if ("mlp", la, i) not in KEPT]
    with ablate(model, gone):
        expected = model(tokens)
    with cna.prune_mlp(model, KEPT, [1, 2], structured=structured):
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-9)
        widths = [len(block.mlp.W_out) for block in model.blocks]
        assert widths == ([width, 2, 3] if structured else [width] * 3)
    assert same(model, before)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_is_left_of_a_layer_is_in_its_old_order_and_can_be_analysed(name):
    model, tokens = architectures.build(name), architectures.prompts()
    _, whole = architectures.build(name).run_with_cache(tokens)
    with cna.prune_mlp(model, KEPT, [2], structured=True):
        _, cache = model.run_with_cache(tokens)
        torch.testing.assert_close(
            cache["blocks.2.mlp.hook_post"], whole["blocks.2.mlp.hook_post"][..., [0, 41, 79]], rtol=0, atol=1e-12
        )
        with pytest.raises(ValueError, match="MLP neurons by layer"):
            cna.compare_neurons(cache, whole, 5)


def test_neurons_found_by_a_search_are_united():
    model, tokens = architectures.build("llama"), architectures.prompts()
    _, cache = model.run_with_cache(tokens)
    with ablate(model, [(1, 0)]):
        _, other = model.run_with_cache(tokens)
    best = cna.compare_neurons(cache, other, 5).top(60)
    wanted = {i for la, i in zip(best.layer.flatten().tolist(), best.index.flatten().tolist(), strict=True) if la == 2}
    with cna.prune_mlp(model, best, [2]):
        alive = model.blocks[2].mlp.W_out.abs().sum(1).nonzero().flatten()
    assert set(alive.tolist()) == wanted


def test_a_crash_in_the_middle_puts_every_neuron_back():
    model = architectures.build("llama")
    before = state(model)
    for structured in (False, True):
        with pytest.raises(KeyboardInterrupt), cna.prune_mlp(model, KEPT, [1], structured=structured):
            raise KeyboardInterrupt
        assert same(model, before)


def test_nothing_is_removed_where_one_layer_cannot_be(monkeypatch):
    model = architectures.build("llama")
    before, real = state(model), pruning._neuron_modules

    def refusing(mlp, layer):
        if layer == 2:
            raise ValueError("structured=True: layer 2")
        return real(mlp, layer)

    monkeypatch.setattr(pruning, "_neuron_modules", refusing)
    with pytest.raises(ValueError, match="structured=True: layer 2"):
        cna.prune_mlp(model, KEPT, [1, 2], structured=True)
    assert same(model, before)


def test_an_edit_during_another_is_refused():
    model = architectures.build("gpt2")
    for outer in (
        edit(model, [("mlp", 0, 1)]),
        cna.prune_mlp(model, KEPT, [1]),
        cna.prune_mlp(model, KEPT, [1], structured=True),
    ):
        with outer:
            for begin in (lambda: edit(model, [("mlp", 2, 2)]), lambda: cna.prune_mlp(model, KEPT, [2])):
                with pytest.raises(ValueError, match="an edit of model is already active: leave its `with` block"):
                    begin()
    cna.prune_mlp(model, KEPT, [2]).undo()


@pytest.mark.parametrize(
    ("keep", "layers", "error", "message"),
    [
        ([], [1], ValueError, "keep is empty: name the MLP neurons that stay"),
        ([(1, 0)], [1], ValueError, r"keep must hold MLP neurons, got \(1, 0\)"),
        (KEPT, [0, 1], ValueError, r"keep has no neuron of layers \[0\]"),
        (KEPT, [3], IndexError, "layers must lie between 0 and 2, got 3"),
        (KEPT, [1, 1], IndexError, "each once"),
        (KEPT, [], IndexError, "at least one layer"),
        ([("mlp", 1, 80)], [1], IndexError, "must lie between 0 and 79"),
    ],
)
def test_bad_arguments_are_named(keep, layers, error, message):
    with pytest.raises(error, match=message):
        cna.prune_mlp(architectures.build("gpt2"), keep, layers)


def test_fused_matrices_lose_no_neuron():
    with pytest.raises(ValueError, match="structured=True: layer 1 keeps its gate and up matrices in one"):
        cna.prune_mlp(architectures.build("phi3"), KEPT, [1], structured=True)
