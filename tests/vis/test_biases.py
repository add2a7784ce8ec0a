import re

import pytest
import torch

from tests import architectures
from tl_neuron_attr import demo, vis
from tl_neuron_attr.incontext import from_demo, icl_biases, icl_prompt


@pytest.fixture(scope="module")
def prompts():
    return from_demo(demo.load(), demo.in_context(30, 4, counts=(2, 2), seed=5))


@pytest.fixture(scope="module")
def report(prompts):
    return icl_biases(demo.load(), prompts, [(3, 4), (3, 7)], progress=False)


def titles(body):
    return re.findall(r"<title>([^<]*)</title>", body)


def test_every_bar_says_its_value_before_and_after(report):
    shown = titles(vis.biases(report).body)
    for gold in report.labels:
        for removed in report.labels:
            rows = report.changes[(report.changes["gold"] == gold) & (report.changes["removed"] == removed)]
            for when, value in zip(rows["when"], rows["value"], strict=True):
                assert f"{gold} is right, one {removed} less, {when}: {value:.3g}" in shown
    gap = report.value("majority", "gap")
    assert f"one removed: gap between the labels, before: {gap['before']:.3g}" in shown
    bars = report.orders[(report.orders["gold"] == "bar") & (report.orders["when"] == "after")]
    first = bars["value"].iloc[0] - bars["value"].mean()
    assert f"bar bar foo foo, after: {bars['value'].iloc[-1] - bars['value'].mean():.3g}" in shown
    assert f"foo foo bar bar, after: {first:.3g}" in shown


def test_a_model_that_does_not_do_the_task_gets_no_bars():
    model = architectures.build("llama", dtype=torch.float32)
    shown = [("w5", "w1"), ("w8", "w2"), ("w9", "w1"), ("w7", "w2")]
    prompts = [icl_prompt(model, shown, "w4", w, labels=("w1", "w2"), separator=" w0 ") for w in ("w1", "w2")] * 5
    body = vis.biases(icl_biases(model, prompts, [(1, 0)], progress=False)).body
    assert "does not do this task" in body and "<svg" not in body


def test_label_words_are_shown_and_never_interpreted(report):
    nasty = "<img/onerror=x>$a_b$"
    swapped = {"foo": nasty, "bar": "bar"}
    hostile = type(report)(
        report.frame.replace({"gold": swapped}),
        report.changes.replace({"gold": swapped, "removed": swapped}),
        report.orders.replace({"gold": swapped}).assign(order=report.orders["order"].str.replace("foo", nasty)),
        (nasty, "bar"), report.heads, report.prompts, report.accuracy, report.chance, True,
    )  # fmt: skip
    body = vis.biases(hostile).body
    assert "<img" not in body and "&lt;img/onerror=x&gt;$a_b$" in body
