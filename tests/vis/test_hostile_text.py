"""Two hundred hostile token texts through the pages and views: no element and no attribute comes from a token.

A page of hostile tokens has the very elements and attributes of the page of harmless ones, as a parser reads both.
"""

from collections import Counter
from html.parser import HTMLParser
from unittest.mock import patch

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import vis

_MARKUP = [
    "</script><script>hack()</script>", "<img src=x onerror=hack()>", "<svg onload=hack()>", "<iframe src=hack>",
    "</svg></g><b>", "</title><h1>", "</style><style>*{}</style>", "<!-- ", "-->", "<![CDATA[", "]]>", "<?xml ?>",
    "<!doctype html>", "</td></tr></table>", "<a href=javascript:hack()>", "<template>", "</textarea>", "<plaintext>",
]  # fmt: skip
_QUOTES = [
    '" onclick="hack()', "' onclick='hack()", "`${hack()}`", '\\"', "\\'", "\\u003cb>", '"/><b>', "'>", '">',
    "{{ 7*7 }}", "{% raw %}", "${7*7}", "$\\frac{1}{2}$", "$x_1$", "%s%n", "\\", "&lt;b&gt;", "&#60;b&#62;", "&amp",
    "&", "<", ">",
]  # fmt: skip
_CONTROLS = [chr(i) for i in [*range(32), 127, *range(128, 160)]]
_DIRECTIONS = ["\u202etxt.exe", "\u202a", "\u2066\u2069", "\u200f", "\u05d0\u05d1", "\u0627\u0644", "\u200b"]
_SEPARATORS = ["\ufeff", "\u2028", "\u2029", "\u00a0", "\ufffd", "\ufffe", "\U0001f469\u200d\U0001f469"]
_SURROGATES = ["\ud83d", "\udc00<b>", "a\udfffb", "\ud800\ud800", "\udbff'"]
_LONG = ["<b>" * 1000, "x" * 3000, "&" * 2000, "\u0301" * 300, '"' * 1000]
_ODD = ["", " ", "  ", "\u0000<b>", "__proto__", "NaN", "null", "0", "-1"]
_PLAIN = [*_MARKUP, *_QUOTES, *_CONTROLS, *_DIRECTIONS, *_SEPARATORS, *_SURROGATES, *_LONG, *_ODD]
HOSTILE = (_PLAIN + [f" {text}{other}" for text, other in zip(_MARKUP * 4, _QUOTES * 4, strict=False)])[:200]
HARMLESS = "word"


class Structure(HTMLParser):
    """Counts the elements of markup, each with the names of its attributes; scripts and comments too."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.found, self.text = Counter(), ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found[tag, tuple(name for name, _ in attrs)] += 1

    def handle_comment(self, data):
        self.found["<!--"] += 1

    def handle_decl(self, decl):
        self.found["<!", decl] += 1

    def handle_pi(self, data):
        self.found["<?"] += 1

    def unknown_decl(self, data):
        self.found["<![", data] += 1


def reading(model, texts):
    """While open, every token of the model's tokenizer reads as one of the texts."""

    def piece(i):
        return texts[int(i) % len(texts)]

    def decode(ids, **_):
        return "".join(map(piece, torch.as_tensor(ids).reshape(-1)))

    def tokens(ids, **_):
        return piece(ids) if isinstance(ids, int) else [piece(i) for i in ids]

    batch = {"batch_decode": lambda rows, **_: [decode(row) for row in rows]}
    return patch.multiple(model.tokenizer, decode=decode, convert_ids_to_tokens=tokens, **batch)


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


def of_tokens(model, texts, ids):
    """What is drawn of a cache: every view whose text is the tokenizer's."""
    with reading(model, texts):
        _, cache = model.run_with_cache(ids)
        value = tna.value_neurons(cache, 5, 6)
        shown = [texts[i % len(texts)] for i in ids[0].tolist()]
        views = {
            "report": vis.report(cache, 5, k=6, heads=2),
            "attention": vis.attention(cache, [(0, 1), (2, 3)]),
            "neurons": vis.neurons(value),
            "query neurons": vis.neurons(tna.query_neurons(cache, value, 6)),
            "flow": vis.flow(tna.trace(cache, 5)),
            "source scores": vis.source_scores(shown, torch.ones(2, ids.shape[1])),
        }
        return {name: str(view.body) for name, view in views.items()}


def structures(pages):
    return {name: Structure(page).found for name, page in pages.items()}


@pytest.fixture(scope="module")
def harmless(model):
    return structures(of_tokens(model, [HARMLESS], torch.arange(50)[None]))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_element_comes_from_a_token_of_a_cache(model, harmless, first):
    hostile = of_tokens(model, HOSTILE[first : first + 50], torch.arange(50)[None])
    assert structures(hostile) == harmless
