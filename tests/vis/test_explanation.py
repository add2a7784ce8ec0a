"""The page of a continuation: its numbers are those of the explanation, and a click shows a token's part."""

import pytest

import tl_neuron_attr as tna
from tests import architectures
from tests.vis.browser import needs_browser, opened
from tests.vis.test_hostile_text import HARMLESS, HOSTILE, reading, structures
from tests.vis.test_tabs import unpacked
from tests.vis.test_walk import CLICK, WIDTHS, resize
from tests.vis.test_whole_answer import data_of
from tl_neuron_attr import demo, vis


@pytest.fixture(scope="module")
def found():
    return tna.explain(demo.load(), "Tim Duncan plays the sport of", max_new_tokens=2, k=4)


def test_the_page_holds_what_was_explained(found):
    table, *tokens = map(data_of, unpacked(vis.explanation(found).body))
    frame = found.to_frame()
    assert [row["neuron"] for row in table["tables"]["overview"]] == frame["neuron"].tolist()
    assert [row["head"] for row in table["tables"]["overview"]] == frame["head"].tolist()
    assert [token["prob"] for token in tokens] == pytest.approx(frame["prob"].tolist())
    assert [token["heads"] for token in tokens] == found.heads.tolist()


def test_no_element_comes_from_a_token():
    model = architectures.build("llama")
    ids = architectures.prompts(1, 4)[0]
    pages = []
    for texts in (HOSTILE, [HARMLESS]):
        with reading(model, texts):
            parts = unpacked(vis.explanation(tna.explain(model, ids, max_new_tokens=2, k=3)).body)
            pages.append(structures(dict(enumerate(parts))))
    assert pages[0] == pages[1]


@needs_browser
def test_a_click_on_a_token_shows_its_part(found, tmp_path):
    with opened(vis.explanation(found).save(tmp_path / "said.html")) as page:
        page.wait_for("return document.querySelector('[data-table=overview]')")
        page.run(CLICK.format("[data-table=overview] [data-part='2']"))
        page.wait_for("return document.querySelector('.tna-part .title')?.innerText.includes('say .?')")
        for width in WIDTHS:
            resize(page, width, "light")
            assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.errors() == [] and page.requests() == []
