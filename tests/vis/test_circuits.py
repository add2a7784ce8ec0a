import json
import re

import pytest
import torch
from circuitsvis.attention import attention_heads
from circuitsvis.tokens import colored_tokens
from circuitsvis.utils.render import RenderedHTML

from tl_neuron_attr.vis.circuits import bundle, element


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
    found = re.search(r'<div id="([\w-]+)"></div>', markup)
    assert found and f'"{found[1]}"' in markup.split("<script>")[1]
    call = markup.split("window.CircuitsVis;")[1]
    props, _ = json.JSONDecoder().raw_decode(call[call.index("{") :])
    assert props["tokens"] == ["a", "b"]


def test_the_bundle_cannot_end_the_script_it_stands_in():
    assert "</script" not in bundle() and "<!--" not in bundle()
    assert len(bundle()) > 1_000_000


def test_an_unknown_rendering_is_refused():
    with pytest.raises(RuntimeError, match=r"circuitsvis .* renders its elements in an unknown way"):
        element(RenderedHTML("", "<p>something new</p>"))
