import re
from xml.etree import ElementTree

import pytest

import tl_neuron_attr as tna
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import demo, vis
from tl_neuron_attr.evaluate import facts, faithfulness, knowledge_study

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def study():
    return knowledge_study(demo.load(), facts(["capital", "sport"], per_type=2), progress=False)


def titles(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def texts(svg):
    return ["".join(t.itertext()) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_page_shows_what_the_study_found(study):
    page = vis.study(study, name="demo").page()
    assert "Where knowledge lives" in page and "demo" in page
    for row in study.top_heads(3).to_dict("records"):
        assert f"L{row['layer']}H{row['head']} {row['score']:+.3f}" in page
    for row in study.decreases().to_dict("records"):
        assert f"{row['type']}, {row['zeroed']}: {row['prob']:.3g}" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_prompts_left_out_are_listed_and_escaped(study):
    from dataclasses import replace

    spoiled = study.selection.assign(status="<b>why</b>", prompt="<script>alert(1)</script>")
    page = vis.study(replace(study, selection=spoiled)).body
    assert "&lt;b&gt;why&lt;/b&gt;" in page and "<script>alert" not in page and "4 prompts were left out" in page


def test_faithfulness_shows_its_table_and_curve():
    model, group = demo.load(), facts(["capital"], per_type=2)["capital"]
    asked = ([p.prompt for p in group], [p.target for p in group])
    options = {"scores": ["log_prob_increase", "random"], "progress": False}
    plain = vis.faithfulness(faithfulness(model, *asked, **options)).body
    assert "log_prob_increase" in plain and "<svg" not in plain
    curve = vis.faithfulness(faithfulness(model, *asked, **options, curve=(1, 30))).body
    assert {"log_prob_increase", "random", "MLP neurons zeroed"} <= set(
        texts(curve[curve.index("<svg") : curve.index("</svg>") + 6])
    )


@needs_browser
def test_the_page_draws_without_errors_or_requests(study, tmp_path):
    with opened(vis.study(study).save(tmp_path / "study.html")) as page:
        assert page.run("return document.querySelectorAll('svg.tna-chart').length") == 7
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert page.errors() == [] and page.requests() == []


def test_public_names_are_there():
    assert {"study", "faithfulness"} <= set(tna.vis.__all__)
