import math
import re
from xml.etree import ElementTree

import pandas as pd
import pytest

from tests import architectures
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import cna, vis

PAIRS = [("w1 w2 w3 w4", "w1 w5 w3 w4"), ("w9 w8 w7", "w9 w6 w7")]
HOSTILE = "</text><script>alert(1)</script> $x_1$ & co"


def report(**options):
    model = architectures.build("gpt2")
    found = cna.bias_neurons(model, PAIRS, ["w20", "w21"], 3)
    return cna.bias_report(model, found, PAIRS, ["w20", "w21"], **options)


def titles(view):
    svg = re.search(r"<svg.*?</svg>", str(view.body), re.DOTALL)
    assert svg
    return [e.text for e in ElementTree.fromstring(svg.group()).iter() if e.tag.endswith("title")]


def test_every_bar_says_its_value():
    found = report(names=["one", "two"])
    means = found.by("pair")
    expected = {
        f"{row['pair']}, {when}: {row[when]:.3f}" for row in means.to_dict("records") for when in ("before", "after")
    }
    assert set(titles(vis.bias(found))) == expected and len(expected) == 6
    assert {title.split(",")[0] for title in titles(vis.bias(found, by="towards"))} <= {"all", "first", "second"}


def test_coefficient_bars_are_the_table():
    frame = pd.DataFrame(
        {
            "model": ["a", "a", "b", "b"],
            "k": [20, 10] * 2,
            "before": 1.0,
            "after": 1.0,
            "increase": [0.1, 0.2, -0.3, 0.4],
            "control": math.nan,
        }
    )
    found = cna.CoefficientIncrease(frame, {"original": 0.5, "a": 0.75, "b": 1.0}, 8)
    expected = {"a, top 20: 10", "a, top 10: 20", "b, top 20: -30", "b, top 10: 40"}
    assert set(titles(vis.coefficients(found))) == expected
    assert "75.0 %" in str(vis.coefficients(found).body)


def test_a_failed_guard_is_said_first():
    guard = cna.Guard({}, [architectures.prompts()[0]], perplexity_gained=-0.999)
    body = str(vis.bias(report(guard=guard)).body)
    assert body.index("The guard failed:") < body.index("<svg")
    assert "The guard failed" not in str(vis.bias(report()).body)


def test_names_are_text_and_never_markup():
    body = str(vis.bias(report(names=[HOSTILE, "b"])).body)
    assert "<script" not in body and "&lt;script&gt;" in body and "$x_1$" in body


def test_an_unknown_grouping_is_refused():
    with pytest.raises(ValueError, match="column must be 'towards', 'pair' or 'target'"):
        vis.bias(report(), by="gender")


@needs_browser
def test_the_page_opens_without_a_request(tmp_path):
    with opened(vis.bias(report(names=[HOSTILE, "b"])).save(tmp_path / "bias.html")) as page:
        assert page.run("return document.querySelectorAll('svg.tna-chart').length") == 1
        assert page.requests() == [] and page.errors() == []
