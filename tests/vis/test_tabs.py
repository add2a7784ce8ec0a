"""Pages of several parts: what they hold, and what a click or a key does to them in a browser."""

import base64
import gzip
import json
import re

import pytest
from markupsafe import Markup
from selenium.webdriver.common.keys import Keys

import tl_neuron_attr as tna
from tests.vis.browser import needs_browser, opened
from tests.vis.test_walk import CLICK, WIDTHS, resize
from tl_neuron_attr import demo, vis
from tl_neuron_attr.vis.tabs import Line, Tab, paged

PROMPT, ANSWER = "Tim Duncan plays the sport of", " basketball ."
SELECTED = "return document.querySelector('[role=tab][aria-selected=true]').innerText"
TITLE = "return document.querySelector('.tna-part .title')?.innerText ?? ''"


def unpacked(body):
    """The markup of every part of a page."""
    packed = json.loads(re.search(r'class="tna-packed">(.*?)</script>', str(body), re.DOTALL)[1])["parts"]
    first = re.search(r'role="tabpanel">(.*)</div></div>\n<script type="application/json" class', str(body), re.DOTALL)
    return [first[1], *(gzip.decompress(base64.b64decode(part)).decode() for part in packed[1:])]


@pytest.fixture(scope="module")
def answer():
    return tna.answer(demo.load(), PROMPT, ANSWER)


@pytest.fixture(scope="module")
def path(answer, tmp_path_factory):
    return vis.report(answer, k=8, heads=3).save(tmp_path_factory.mktemp("parts") / "answer.html")


def test_every_part_comes_back_and_the_scripts_are_there_once():
    parts = tuple(Tab(name, Markup(f"<p>{name} ü</p>"), 0.5) for name in ("one", "two", "three"))
    page = paged([Line(("<bos>", " a"), parts[:2]), Line((" b",), parts[2:])], Markup("<h1>x</h1>"), "x")
    assert unpacked(page.body) == [str(part.body) for part in parts]
    assert re.findall(r"<bdi>(\w+)</bdi>", page.body) == ["one", "two", "three"]
    flow = vis.flow(tna.trace(demo.load().run_with_cache(PROMPT)[1])).body
    with_flow = paged([Line((), (Tab("f", flow), Tab("g", flow)))], Markup(), "x")
    assert str(with_flow.body).count("window.tnaFlows ??=") == 1
    assert all("tnaFlows ??=" not in part and "tna-flow" in part for part in unpacked(with_flow.body))
    assert not with_flow.scripted and "tnaPatterns ??=" not in with_flow.body


def test_a_page_is_the_same_bytes_twice(answer):
    pages = [vis.report(answer, k=3, heads=2, measure=False).page() for _ in range(2)]
    assert pages[0] == pages[1]


@needs_browser
def test_a_click_or_a_key_shows_a_tokens_part(path):
    with opened(path) as page:
        page.wait_for("return document.querySelectorAll('.tna-flow svg .node').length > 5")
        assert page.run(SELECTED) == "whole answer" and page.run(TITLE) == ""
        page.run(CLICK.format(".tna-tokens [data-step='2']"))
        page.wait_for("return document.querySelector('.tna-part .title')?.innerText.includes('say .?')")
        assert page.run("return location.hash") == "#part=2"
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        tab = page.driver.find_element("css selector", "[role=tab][aria-selected=true]")
        tab.send_keys(Keys.ARROW_LEFT)
        page.wait_for("return document.querySelector('.tna-part .title')?.innerText.includes('say basketball?')")
        head = page.run("return document.querySelector('[data-table=heads] tbody tr').dataset.unit")
        page.run(CLICK.format(f"[data-table=heads] button[data-unit={head}]"))
        page.run("document.querySelector('[role=tab]').click()")
        page.wait_for("return document.querySelector('.tna-tokens')")
        assert page.run("return location.hash") == f"#pin={head}", "what is pinned stays pinned"
        assert page.run(f"return document.querySelectorAll('.pinned[data-unit={head}]').length") > 0
        for width in WIDTHS:
            resize(page, width, "dark")
            assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.errors() == [] and page.requests() == []


@needs_browser
def test_the_address_opens_a_part_and_the_download_holds_all(path, answer):
    with opened(path) as page:
        page.driver.get("about:blank")
        page.driver.get(path.resolve().as_uri() + "#part=1")
        page.wait_for("return document.querySelector('.tna-part .title')?.innerText.includes('say basketball?')")
        page.run("""URL.createObjectURL = (blob) => (blob.text().then((text) => (window.data = text)), 'data:,');
                    document.querySelector('.download').click()""")
        parts = json.loads(page.wait_for("return window.data"))["parts"]
        assert parts[0]["log_prob"] == pytest.approx(float(answer.log_prob))
        assert [part["target"] for part in parts[1:]] == parts[0]["answer_tokens"]
        assert page.errors() == []
