"""The scripts behind ``make results-real`` on the bundled model: sections that run, and say what they must."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tl_neuron_attr as tna

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def incontext_real(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield __import__("incontext_real")
    for name in ("incontext_real", "tables"):
        sys.modules.pop(name, None)


def options(**changed):
    given = {"heads": 3, "known": None, "batch_size": 64, "even": 2, "orders": 2, "seed": 0, "sections": ["shift"]}
    return argparse.Namespace(**given | changed)


def prompts(model, n, **options):
    return tna.incontext.from_demo(model, tna.demo.in_context(n, 4, **options))


def test_paper_2_is_measured_on_the_heads_that_its_first_section_found(incontext_real):
    model = tna.demo.load()
    seen, few = prompts(model, 16, query="strong"), prompts(model, 8, counts=(2, 2))
    found = {title: body() for title, body in incontext_real.sections(model, seen, few, few, options())}
    heads, shift = found.values()
    assert list(found) == [
        "Heads found, and zeroed together (16 prompts, half to find, half to measure)",
        "Labels reversed (8 prompts; Tables 5 and 6)",
    ]
    named = {line.split("|")[1].strip() for line in heads.split("\n\n")[1].splitlines()[2:]}
    assert len(named) == 3 and named == {line.split("|")[1].strip() for line in shift.splitlines()[4:]}
    assert "| found heads" in heads and "| random heads" in heads


def test_a_model_that_does_not_do_the_task_has_no_later_sections(incontext_real):
    model = tna.demo.load()
    drawn = prompts(model, 16, query="strong")
    wrong = [replace(prompt, gold=1 - prompt.gold) if i % 2 else prompt for i, prompt in enumerate(drawn)]
    found = [body() for _, body in incontext_real.sections(model, wrong, wrong, wrong, options())]
    assert len(found) == 1 and "does not do this task, so no heads were searched" in found[0]


@pytest.mark.parametrize("n, orders", [(2, 4), (4, 6), (4, 10)])
def test_orders_hold_each_label_as_often_last_and_are_different(incontext_real, n, orders):
    found = incontext_real.orders(options(even=n, orders=orders))
    assert len(found) == len({tuple(order) for order in found}) == orders
    assert all(sorted(order) == [0] * n + [1] * n for order in found)
    assert sum(order[-1] for order in found) == orders / 2
