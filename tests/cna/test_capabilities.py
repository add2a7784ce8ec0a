import pytest
import torch

from tests import architectures
from tl_neuron_attr import ablate, cna
from tl_neuron_attr.cna import Case, Guard
from tl_neuron_attr.cna.capabilities import perplexity

TOKENS = architectures.prompts(3)
PAIRS = [("w1 w2 w3 w4", "w1 w5 w3 w4")]


@torch.no_grad()
def says(model, row):
    return int(model(row[None])[0, -1].argmax())


def right_cases(model):
    return [Case(tuple(row.tolist()), says(model, row)) for row in TOKENS]


@torch.no_grad()
def test_perplexity_is_that_of_a_loop_over_tokens():
    model = architectures.build("llama")
    texts = [TOKENS[0], TOKENS[1][:4], TOKENS[2]]
    surprises = [
        -float(model(text[None, :i])[0, -1].log_softmax(-1)[text[i]]) for text in texts for i in range(1, len(text))
    ]
    expected = torch.tensor(surprises, dtype=torch.float64).mean().exp()
    for batch_size in (1, 32):
        assert perplexity(model, texts, batch_size=batch_size) == pytest.approx(float(expected), rel=1e-5)


def test_what_a_guard_lets_pass():
    guard = Guard({"facts": [Case((1,), 2)]}, [TOKENS[0]], accuracy_lost=0.02, perplexity_gained=0.1)
    before = {"facts": 0.9, "perplexity": 10.0}
    assert guard.failures(before, {"facts": 0.88, "perplexity": 11.0}) == []
    assert guard.failures(before, {"facts": 0.87, "perplexity": 11.1}) == [
        "facts 90.0 -> 87.0 %", "perplexity 10.000 -> 11.100",
    ]  # fmt: skip
    assert guard.failures(before, {"facts": 1.0, "perplexity": 1.0}) == []


def test_neurons_that_break_the_model_are_left_out():
    model = architectures.build("gpt2")
    cases = right_cases(model)
    found = cna.bias_neurons(model, PAIRS, ["w20", "w21"], 30, sites=("mlp", "attn"))
    guard = Guard({"said": cases})
    scale = -30.0

    def passes(parts):
        with ablate(model, found.pick(parts), scale=scale):
            return all(says(model, row) == case.answer for row, case in zip(TOKENS, cases, strict=True))

    expected = []
    for i in range(30):
        if passes([*expected, i]):
            expected.append(i)
    assert 0 < len(expected) < 30
    safe = cna.safe_neurons(model, found, guard, scale=scale, progress=False)
    assert safe.neurons.labels == [found.labels[i] for i in expected]
    assert safe.frame["kept"].tolist() == [i in expected for i in range(30)]
    assert all("said 100.0 -> " in text for text in safe.frame.loc[~safe.frame["kept"], "fails"])
    assert f"{len(expected)} of 30 neurons kept" in str(safe)


def test_where_all_fail_it_is_said():
    model = architectures.build("gpt2")
    found = cna.bias_neurons(model, PAIRS, ["w20"], 2)
    guard = Guard({}, [TOKENS[0]], perplexity_gained=-1.0)
    with pytest.raises(ValueError, match="every one of the 2 neurons fails the guard"):
        cna.safe_neurons(model, found, guard, progress=False)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="a guard needs cases or texts, got neither"):
        Guard({})
    with pytest.raises(ValueError, match="cases of 'facts' is empty"):
        Guard({"facts": []})
    with pytest.raises(ValueError, match="texts must have at least two tokens each, text 0 has 1"):
        Guard({}, [torch.tensor([1])])
    model = architectures.build("gpt2")
    batch = cna.bias_neurons(model, PAIRS, ["w20"], 2).unsqueeze()
    with pytest.raises(ValueError, match=r"neurons are of 1 prompt, which share the weights: take neurons\[0\]"):
        cna.safe_neurons(model, batch, Guard({}, [TOKENS[0]]))
