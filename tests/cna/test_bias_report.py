import pytest
import torch

from tests import architectures
from tl_neuron_attr import cna, demo, edit
from tl_neuron_attr.cna import Guard

PAIRS = [("w1 w2 w3 w4", "w1 w5 w3 w4"), ("w9 w8 w7", "w9 w6 w7"), ("w2 w2 w2 w2", "w2 w3 w2 w2")]
TARGETS = ["w20", "w21"]


@torch.no_grad()
def slow(model, pair, target):
    token = model.to_single_token(target)
    first, second = (float(model(model.to_tokens(text))[0, -1].log_softmax(-1)[token]) for text in pair)
    return first - second


def test_differences_are_those_of_the_model_and_of_the_edited_model():
    model = architectures.build("llama")
    found = cna.bias_neurons(model, PAIRS[:1], TARGETS, 5, sites=("mlp", "attn"))
    report = cna.bias_report(
        model, found, PAIRS[1:], TARGETS, scale=0.5, sides=("woman", "man"), names=["a", "b"], found_on=PAIRS[:1]
    )
    before = {(n, t): slow(model, p, t) for n, p in zip("ab", PAIRS[1:], strict=True) for t in TARGETS}
    with edit(model, found, scale=0.5):
        after = {(n, t): slow(model, p, t) for n, p in zip("ab", PAIRS[1:], strict=True) for t in TARGETS}
    for row in report.frame.to_dict("records"):
        key = (row["pair"], row["target"])
        sign = 1 if sum(before[n, key[1]] for n in "ab") > 0 else -1
        assert row["towards"] == ("woman" if sign > 0 else "man")
        assert row["before"] == pytest.approx(sign * before[key], abs=1e-6)
        assert row["after"] == pytest.approx(sign * after[key], abs=1e-6)
    means = report.by("target").set_index("target")
    assert means.loc["all", "after"] == pytest.approx(report.frame["after"].mean())
    assert report.decrease == pytest.approx(1 - report.frame["after"].mean() / report.frame["before"].mean())
    assert {"woman", "man"} >= set(report.by()["towards"]) - {"all"}


def test_the_model_is_as_before_also_after_a_crash(monkeypatch):
    model = architectures.build("gpt2")
    before = {name: tensor.clone() for name, tensor in model.original_model.state_dict().items()}
    found = cna.bias_neurons(model, PAIRS[:1], TARGETS, 5)
    cna.bias_report(model, found, PAIRS, TARGETS)
    guard = Guard({"cases": [cna.Case((1, 2), 3)]})
    calls = []

    def crash(self, model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"cases": 1.0}

    monkeypatch.setattr(Guard, "measure", crash)
    with pytest.raises(KeyboardInterrupt):
        cna.bias_report(model, found, PAIRS, TARGETS, guard=guard)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.original_model.state_dict().items())
    monkeypatch.undo()
    cna.bias_report(model, found, PAIRS, TARGETS)


def test_an_edit_that_breaks_the_model_is_seen():
    model = demo.load()
    pairs = [("the nurse said that", "the doctor said that")]
    rows = [("mlp", layer, i) for layer in (3, 4) for i in range(512)]
    cases = cna.arithmetic_cases(model, cna.problems("+", digits=2, n=40))
    text = [model.to_tokens("23 + 45 = 68 . 3 * 5 = 15 .")[0]]
    found = cna.bias_neurons(model, pairs, ["she", "he"], len(rows), sites=("mlp",))
    report = cna.bias_report(model, found, pairs, ["she", "he"], guard=Guard({"arithmetic": cases}, text))
    measured = report.capabilities.set_index("measure")
    assert measured.loc["arithmetic", "before"] == 1 > measured.loc["arithmetic", "after"] + 0.2
    assert len(report.failures) == 2 and "GUARD FAILED: arithmetic 100.0 -> " in str(report)


def test_the_bundled_models_bias_gets_smaller():
    model = demo.load()
    pairs = [(f"the nurse {said} that", f"the doctor {said} that") for said in ("said", "thought")]
    found = cna.bias_neurons(model, pairs[:1], ["she", "he"], 20, sites=("attn",))
    report = cna.bias_report(model, found, pairs[1:], ["she", "he"], found_on=pairs[:1], sides=("she", "he"))
    assert report.frame["before"].min() > 1 and report.decrease > 0.2
    assert report.frame["towards"].tolist() == ["she", "he"]


def test_bad_arguments_are_named():
    model = architectures.build("gpt2")
    found = cna.bias_neurons(model, PAIRS[:1], TARGETS, 5)
    with pytest.raises(ValueError, match="on which the neurons were found: report on others"):
        cna.bias_report(model, found, PAIRS, TARGETS, found_on=PAIRS[:1])
    with pytest.raises(ValueError, match="names must be one for each of the 3 pairs, got 1"):
        cna.bias_report(model, found, PAIRS, TARGETS, names=["a"])
    with pytest.raises(ValueError, match="prompt_pairs is empty"):
        cna.bias_report(model, found, [], TARGETS)
    with edit(model, [("mlp", 0, 0)]), pytest.raises(ValueError, match="an edit of model is already active"):
        cna.bias_report(model, found, PAIRS, TARGETS)
    with pytest.raises(ValueError, match="column must be 'towards', 'pair' or 'target', got 'gender'"):
        cna.bias_report(model, found, PAIRS, TARGETS).by("gender")
