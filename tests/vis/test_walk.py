"""A walk through the report in a real browser, at three widths, light and dark: what people do with it."""

import base64
import csv
import io
import json
import re

import pytest
from selenium.webdriver.common.print_page_options import PrintOptions

import tl_neuron_attr as tna
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import demo, vis

WIDTHS = (1600, 1280, 390)
SCREENS = "Emulation.setDeviceMetricsOverride"
ROWS = "return [...document.querySelectorAll('[data-table={}] tbody tr:not([hidden])')].map(r => r.dataset.unit)"
CLICK = "document.querySelector(\"{}\").dispatchEvent(new MouseEvent('click', {{bubbles: true}}))"


VALUE = "[data-table=value]"
HEADS = f"[...document.querySelectorAll('{VALUE} thead th')]"


def press(page, text):
    page.run(f"[...document.querySelectorAll('{VALUE} .tools button')].find(b => b.textContent == '{text}').click()")


@pytest.fixture(scope="module")
def cache():
    return demo.load().run_with_cache("Tim Duncan plays the sport of")[1]


@pytest.fixture(scope="module")
def path(cache, tmp_path_factory):
    return vis.report(cache, " basketball", k=12).save(tmp_path_factory.mktemp("walk") / "report.html")


def resize(page, width, scheme):
    page.driver.execute_cdp_cmd(SCREENS, {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@needs_browser
def test_the_page_fits_three_widths_light_and_dark(path):
    with opened(path) as page:
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        grounds = set()
        for scheme in ("light", "dark"):
            for width in WIDTHS:
                resize(page, width, scheme)
                assert page.run("return document.documentElement.scrollWidth") <= width
                heights = page.run(
                    "return [...document.querySelectorAll('.tna-table tbody tr')].map(r => r.offsetHeight)"
                )
                assert max(heights) <= (90 if width < 500 else 45), "no word is cut letter by letter"
                assert page.run("return document.querySelectorAll('.tna-flow svg .node').length") > 5
            grounds.add(page.run("return getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
        assert page.errors() == [] and page.requests() == []


@needs_browser
def test_pinning_follows_a_head_from_table_to_flow_heat_map_and_attention(cache, path):
    best = tna.attribute_heads(cache, " basketball")[0]
    head = f"L{int(best.argmax()) // best.shape[1]}H{int(best.argmax()) % best.shape[1]}"
    with opened(path) as page:
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        page.run(CLICK.format(f"[data-table=heads] button[data-unit={head}]"))
        pinned = page.run("return [...document.querySelectorAll('.pinned')].map(e => e.tagName.toLowerCase())")
        assert {"tr", "g", "b"} <= set(pinned), "its row, its node, its cell and the sentence"
        assert head in page.run("return document.querySelector('.panel').innerText")
        assert page.run("return document.querySelector('.tna-attention [aria-selected=true]').textContent") == head
        assert page.run("return location.hash") == f"#pin={head}"
        page.run("document.querySelector('.panel button').click()")
        page.run(CLICK.format(f"svg.tna-chart [data-unit={head}]"))
        assert page.run("return document.querySelectorAll('.pinned').length") == 0, "a second click lets go"
        point = "document.querySelector('{} tbody tr').dispatchEvent(new Event('pointerover', {{bubbles: true}}))"
        page.run(point.format(VALUE))
        lit = page.run("return [...document.querySelectorAll('.lit')].map(e => e.dataset.unit)")
        assert len(set(lit)) == 1 and len(lit) >= 3
        assert page.errors() == [] and page.requests() == []


@needs_browser
def test_tables_sort_filter_and_copy(cache, path):
    value = tna.value_neurons(cache, " basketball", 12)[0]
    units = [label.split("@")[0] for label in value.labels]
    with opened(path) as page:
        page.run("window.copied = []; navigator.clipboard.writeText = async (text) => void window.copied.push(text)")
        assert page.run(ROWS.format("value")) == units
        score = page.run(f"return {HEADS}.findIndex(h => h.innerText.startsWith('score'))")
        page.run(f"{HEADS}[{score}].click()")
        assert page.run(ROWS.format("value")) == units, "the largest first, as they were"
        page.run(f"{HEADS}[{score}].click()")
        assert page.run(ROWS.format("value")) == units[::-1]
        layer = value.flat_labels[0].split("N")[0].split("H")[0]
        typed = f"const f = document.querySelector('{VALUE} input'); f.value = '{layer}';"
        page.run(f"{typed} f.dispatchEvent(new Event('input'))")
        kept = page.run(ROWS.format("value"))
        assert 0 < len(kept) < 12 and all(unit.startswith(layer) for unit in kept)
        for text in ("copy CSV", "copy JSON"):
            press(page, text)
        table, records = page.wait_for("return window.copied.length == 2 && window.copied")
        rows = list(csv.DictReader(io.StringIO(table)))
        assert [row["neuron"] for row in rows] == [record["neuron"] for record in json.loads(records)]
        by_name = dict(zip(value.labels, value.score.tolist(), strict=True))
        assert {row["neuron"]: float(row["score"]) for row in rows} == {
            row["neuron"]: pytest.approx(by_name[row["neuron"]]) for row in rows
        }
        assert page.errors() == []


@needs_browser
def test_fragments_are_shown_when_wanted_and_data_is_downloaded(path):
    with opened(path) as page:
        hidden = (
            "return [...document.querySelectorAll('[data-table=value] .fragment')].filter(e => !e.offsetParent).length"
        )
        total = page.run("return document.querySelectorAll('[data-table=value] .fragment').length")
        assert page.run(hidden) == total
        if total:
            press(page, "fragments")
            assert page.run(hidden) < total
        page.run("""URL.createObjectURL = (blob) => (blob.text().then((text) => (window.data = text)), 'data:,');
                    document.querySelector('.download').click()""")
        data = json.loads(page.wait_for("return window.data"))
        assert data["target"].strip() == "basketball" and len(data["tables"]["value"]) == 12


@needs_browser
def test_a_short_prompt_prints_on_few_pages_in_ink(path):
    with opened(path) as page:
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        resize(page, 1280, "dark")
        options = PrintOptions()
        options.background = True
        pdf = base64.b64decode(page.driver.print_page(options))
        (pages,) = map(int, re.findall(rb"/Type /Pages\s*/Count (\d+)", pdf))
        assert pages <= 2
