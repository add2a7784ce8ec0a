import json
import re

import pytest
import torch
from circuitsvis.attention import attention_heads
from circuitsvis.tokens import colored_tokens
from circuitsvis.utils.render import RenderedHTML
from markupsafe import Markup

from tests.vis.browser import needs_browser, opened
from tl_neuron_attr.vis.circuits import bundle, element
from tl_neuron_attr.vis.view import View


@pytest.mark.parametrize(
    "drawn",
    [
        attention_heads(attention=torch.eye(2)[None], tokens=["a", "b"], attention_head_names=["L0H0"]),
        colored_tokens(["a", "b"], torch.tensor([0.0, 1.0])),
    ],
)
def test_an_element_takes_everything_from_the_bundle(drawn):
    markup = element(drawn)
    assert "https://" not in markup and "window.CircuitsVis" in markup
    call = markup[markup.index("render(") :]
    props, _ = json.JSONDecoder().raw_decode(call[call.index("{") :])
    assert props["tokens"] == ["a", "b"]


def drawn(second: float) -> RenderedHTML:
    return colored_tokens(["a", "b"], torch.tensor([0.0, second]))


def test_an_element_is_the_same_bytes_twice_and_another_is_not():
    assert drawn(1.0).cdn_src != drawn(1.0).cdn_src
    assert element(drawn(1.0)) == element(drawn(1.0))
    ids = {re.search(r'<div data-circuitsvis="(\w+)"', element(drawn(v)))[1] for v in (1.0, 0.5, 0.25)}
    assert len(ids) == 3


@needs_browser
def test_an_element_that_stands_in_a_page_twice_is_drawn_twice(tmp_path):
    twins = Markup("").join([element(drawn(1.0)), element(drawn(0.5)), element(drawn(1.0))])
    with opened(View(twins, "twins", scripted=True).save(tmp_path / "twins.html")) as page:
        page.wait_for("return [...document.querySelectorAll('[data-circuitsvis]')].every(e => e.innerText.trim())")
        assert len({*page.run("return [...document.querySelectorAll('[data-circuitsvis]')].map(e => e.id)")}) == 3
        assert not page.errors()


def test_the_bundle_carries_the_licence_of_circuitsvis():
    notice = bundle().partition("*/")[0]
    assert notice.startswith("/*!") and "MIT License" in notice and "Copyright (c)" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_the_bundle_cannot_end_the_script_it_stands_in():
    assert "</script" not in bundle() and "<!--" not in bundle()
    assert len(bundle()) > 1_000_000


def test_an_unknown_rendering_is_refused():
    with pytest.raises(RuntimeError, match=r"circuitsvis .* renders its elements in an unknown way"):
        element(RenderedHTML("", "<p>something new</p>"))
