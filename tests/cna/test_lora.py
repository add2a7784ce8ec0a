from importlib.util import find_spec

import peft
import pytest
import torch
import torch.nn.functional as F

from tests import architectures
from tl_neuron_attr import cna, demo
from tl_neuron_attr.cna import Case, lora

TOKENS = architectures.prompts(4)
CASES = [Case(tuple(row.tolist()), 5 + i) for i, row in enumerate(TOKENS)]
ANSWERS = torch.tensor([case.answer for case in CASES])


def trained(model, **options):
    return cna.train_lora(
        model, CASES, **{"layer": 1, "learning_rate": 1e-2, "epochs": 12, "progress": False} | options
    )


def weights(model):
    return {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}


def same(model, before):
    now = model.original_model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)


@pytest.mark.parametrize("name", architectures.DENSE)
def test_the_adapted_model_learns_and_the_model_stays_bit_for_bit_what_it_was(name):
    model = architectures.build(name, dtype=torch.float32)
    before, wanted_grads = weights(model), [p.requires_grad for p in model.parameters()]
    first = F.cross_entropy(model(TOKENS)[:, -1], ANSWERS)
    adapter = trained(model)
    assert same(model, before)
    assert [p.requires_grad for p in model.parameters()] == wanted_grads
    assert all(p.grad is None for p in model.parameters())
    assert adapter.losses[0] == pytest.approx(float(first), rel=1e-4)  # B is zero at first
    with adapter.attached(model):
        last = F.cross_entropy(model(TOKENS)[:, -1], ANSWERS)
    assert float(last) < 0.97 * float(first)
    assert float(last) == pytest.approx(adapter.losses[-1], rel=0.05)
    assert same(model, before)


def test_the_adapted_model_is_the_one_that_peft_makes():
    model = architectures.build("llama")
    adapter = trained(model, rank=3, alpha=5)
    torch.manual_seed(0)
    plain = architectures.BUILDERS["llama"]().double().eval()
    plain.load_state_dict({n.replace("._original_component", ""): t for n, t in weights(model).items()}, strict=False)
    targets = [f"model.layers.1.self_attn.{name}_proj" for name in "qkvo"]
    oracle = peft.get_peft_model(plain, peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets))
    for name, (A, B) in adapter.factors.items():
        layer = plain.model.layers[1].self_attn.get_submodule(f"{name}_proj")
        layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = A.double(), B.double()
    with adapter.attached(model):
        torch.testing.assert_close(model(TOKENS), oracle(TOKENS).logits, rtol=0, atol=1e-5)
    assert adapter.parameters == sum(p.numel() for n, p in oracle.named_parameters() if "lora" in n)


def test_the_same_seed_gives_the_same_adapter_and_the_global_generator_is_left_alone():
    model = architectures.build("gpt2")
    state = torch.get_rng_state()
    first, again, other = trained(model), trained(model), trained(model, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.losses == again.losses
    assert all(torch.equal(first.change(name), again.change(name)) for name in first.factors)
    assert not torch.equal(first.change("q"), other.change("q"))


def test_every_case_is_seen_once_an_epoch():
    short = [Case((1, 2), 3), Case((4, 5), 6), Case((7,), 8)]
    steps = lora._epochs(short, 2, 2, seed=0)
    assert sorted(i for indices, _ in steps for i in indices) == [0, 0, 1, 1, 2, 2]
    for indices, tokens in steps:
        assert [tuple(row) for row in tokens.tolist()] == [short[i].tokens for i in indices]


def test_a_crash_in_the_middle_leaves_the_model_as_it_was(monkeypatch):
    model = architectures.build("llama")
    before = weights(model)
    adapter = trained(model)
    with pytest.raises(KeyboardInterrupt), adapter.attached(model):
        raise KeyboardInterrupt
    assert same(model, before)

    def crash(*args, **options):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(F, "cross_entropy", crash)
        trained(model)
    assert same(model, before)
    assert all(p.requires_grad for p in model.parameters())
    assert trained(model).losses == adapter.losses


def test_a_second_adapter_is_refused():
    model = architectures.build("llama")
    adapter = trained(model)
    with adapter.attached(model):
        with pytest.raises(ValueError, match="an adapter of model is already active"), adapter.attached(model):
            pass
        with pytest.raises(ValueError, match="an adapter of model is already active"):
            trained(model)
    config = peft.LoraConfig(target_modules=["_original_component.q_proj._original_component"])
    peft.inject_adapter_in_model(config, model.blocks[0].attn)
    with pytest.raises(ValueError, match=r"an adapter of model is already active, in .*: merge it first"):
        trained(model)


def test_weights_changed_under_an_adapter_are_put_back_and_said_so():
    model = architectures.build("llama")
    before = weights(model)
    message = "o of layer 1 were changed while the adapter was attached"
    with pytest.raises(RuntimeError, match=message), trained(model).attached(model):
        model.blocks[1].attn.W_O.data[0, 0] += 1
    assert same(model, before)


def test_without_peft_the_extra_is_named(monkeypatch):
    model = architectures.build("gpt2")
    monkeypatch.setattr(lora, "find_spec", lambda name: None if name == "peft" else find_spec(name))
    with pytest.raises(ImportError, match=r"pip install 'tl_neuron_attr\[lora\]'"):
        trained(model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": 3}, IndexError, "layer must lie between 0 and 2, got 3"),
        ({"rank": 0}, ValueError, "rank must be positive, got 0"),
        ({"steps": 0}, ValueError, "steps must be positive, got 0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be positive"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        trained(architectures.build("gpt2"), **options)


def test_no_case_and_an_adapter_of_another_model_are_refused():
    with pytest.raises(ValueError, match="cases is empty"):
        cna.train_lora(architectures.build("gpt2"), [], layer=0)
    adapter = trained(architectures.build("llama"))
    with pytest.raises(ValueError, match="it is an adapter of another model"):
        adapter.attached(architectures.build("qwen3")).__enter__()


def test_the_bundled_model_learns_to_write_a_minus_sign():
    model = demo.load()
    train, test = cna.arithmetic_set(model, train=600, test=60)
    negative = [case for case in test if case.group == "negative" and case.answer == model.to_single_token("-")]
    assert sum(cna.answered(model, negative)) == 0
    adapter = cna.train_lora(model, train, layer=2, learning_rate=5e-3, steps=40, progress=False)
    with adapter.attached(model):
        right = cna.answered(model, negative)
    assert sum(right) > 0.5 * len(right)
