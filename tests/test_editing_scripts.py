"""The scripts that fine-tune a real model and edit a bias out of one, on the bundled model."""

from types import SimpleNamespace

import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr import cna, demo

WORK = tuple(zip(["nurse", "secretary", "maid"], ["doctor", "engineer", "plumber"], strict=True))
SAYS, ELSEWHERE = "the {} said that", ("the {} thought that", "the {} smiled because")


@pytest.fixture
def bias_real(script):
    return script("bias_real")


def study(bias_real, model):
    """The bundled model's bias: *she* is likelier after a nurse, *he* after a doctor."""
    cases = cna.prompt_cases(model, demo.facts("sport")[:4])
    guard = cna.Guard({"facts": cases}, [torch.tensor((*case.tokens, case.answer)) for case in cases])
    asked = bias_real.pairs(ELSEWHERE, WORK)
    return bias_real.Study(
        ["she", "he"], bias_real.pairs([SAYS], WORK), asked, asked[:2], asked[-1:], ("she", "he"), guard
    )


def test_the_bias_measured_is_that_of_the_report_and_the_edit_is_undone(bias_real):
    model = demo.load()
    asked = study(bias_real, model)
    signs = bias_real.towards(model, asked)
    assert signs.tolist() == [1, -1]
    found = bias_real.estimated(model, asked, signs, 12)
    report = cna.bias_report(model, found, asked.asked, asked.targets)
    before = bias_real.measured(model, asked, signs)
    with tna.edit(model, found):
        after = bias_real.measured(model, asked, signs)
    for column, measured in (("before", before), ("after", after)):
        by_prompt = report.frame[column].to_numpy().reshape(len(asked.asked), 2).mean(1)
        assert measured.asked.tolist() == pytest.approx(by_prompt)
        assert measured.sides[["woman", "man"]].mean(axis=1).tolist() == pytest.approx(by_prompt)
    assert bias_real.measured(model, asked, signs).asked.tolist() == before.asked.tolist()


def test_neurons_of_the_gradient_take_the_bias_out_and_random_ones_of_their_layers_do_not(bias_real):
    model = demo.load()
    asked = study(bias_real, model)
    given = SimpleNamespace(neurons=[12], draws=2, seed=0, shown=2)
    *_, (title, table) = bias_real.edits(model, asked, given)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    gone = [float(line[lines[0].index("less, %")].split()[0]) for line in lines[2:]]
    untouched, _, near_changed, gradient, near_gradient = gone
    assert title.startswith("Bias before and after (Table 13): 6 prompts") and untouched == 0
    assert gradient > 10 and max(abs(near_changed), abs(near_gradient)) < 3


def test_random_neurons_are_as_many_others_of_the_same_layers(bias_real):
    model = demo.load()
    asked = study(bias_real, model)
    found = bias_real.estimated(model, asked, bias_real.towards(model, asked), 12)
    drawn = bias_real.random_of_layers(model, found, 0)
    assert drawn.layer.tolist() == found.layer.tolist()
    assert len({*drawn.labels, *found.labels}) == 24


def test_the_increase_of_single_cases_is_that_of_the_package_and_of_both_adapters_the_difference(script):
    lora, model = script("arithmetic_lora"), demo.load()
    train, test = cna.arithmetic_set(model, train=64, test=8)
    adapters = {layer: cna.train_lora(model, train, layer=layer, steps=3, progress=False) for layer in (3, 1)}
    rises = {layer: lora.increases(model, adapter, test[:2], 8) for layer, adapter in adapters.items()}
    for case in (0, 1):
        named = {str(layer): adapter for layer, adapter in adapters.items()}
        found = cna.coefficient_increase(model, named, [test[case]], ks=lora.KS, control=False, progress=False).wide()
        for layer, rise in rises.items():
            assert rise.loc[case].tolist() == pytest.approx((100 * found.loc[str(layer)]).tolist(), abs=1e-3)
    rows = lora.table_10(1, {"": rises[1], ", random change": rises[3]}, {"layer": 3, "rise": rises[3]})
    *_, apart, paired = rows
    assert paired["adapter"] == "layer 1, more than layer 3"
    assert apart["top 10"] == paired["top 10"]
    assert float(paired["top 10"].split()[0]) == pytest.approx((rises[1] - rises[3])[10].mean(), abs=0.51)
