"""The script that edits a bias out of a real model, on the bundled one."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr import cna, demo

SCRIPTS = Path(__file__).parents[1] / "scripts"
WORK = tuple(zip(["nurse", "secretary", "maid"], ["doctor", "engineer", "plumber"], strict=True))
SAYS, ELSEWHERE = "the {} said that", ("the {} thought that", "the {} smiled because")


@pytest.fixture
def bias_real(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield __import__("bias_real")
    for name in ("bias_real", "tables"):
        sys.modules.pop(name, None)


def study(bias_real, model):
    """The bundled model's bias: what a man does is likelier to be told of him."""
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
