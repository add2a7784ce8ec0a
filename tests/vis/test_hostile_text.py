"""Two hundred hostile token texts through the pages and views: no element and no attribute comes from a token.

A page of hostile tokens has the very elements and attributes of the page of harmless ones, as a parser reads both.
"""

import csv
import io
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from unittest.mock import patch

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import cna, vis
from tl_neuron_attr.incontext import batch_of, two_towers
from tl_neuron_attr.results.token_text import encodable

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


def _catalogue(model, texts):
    """A catalogue in which every neuron has one context, one of the texts around another."""
    width = model.cfg.d_mlp
    contexts = [
        [f"a{encodable(texts[i % len(texts)])}[[{encodable(texts[(i + 1) % len(texts)])}]]b"] for i in range(width)
    ]
    layer = pd.DataFrame({"index": range(width), "positive_context": contexts, "negative_context": contexts})
    return {f"layer_{at:02d}": layer for at in range(model.cfg.n_layers)}


def of_tokens(model, texts, ids):
    """What is drawn of a cache: every view whose text is the tokenizer's."""
    with reading(model, texts):
        _, cache = model.run_with_cache(ids)
        value = tna.value_neurons(cache, 5, 6)
        shown = [texts[i % len(texts)] for i in ids[0].tolist()]
        views = {
            "report": vis.report(cache, 5, k=6, heads=2, catalogue=_catalogue(model, texts)),
            "attention": vis.attention(cache, [(0, 1), (2, 3)]),
            "neurons": vis.neurons(value),
            "query neurons": vis.neurons(tna.query_neurons(cache, value, 6)),
            "flow": vis.flow(tna.trace(cache, 5)),
            "source scores": vis.source_scores(shown, torch.ones(2, ids.shape[1])),
        }
        printed = {
            "value neurons": value,
            "query neurons": tna.query_neurons(cache, value, 6),
            "top tokens": tna.top_tokens(model, value, 4),
            "position tokens": tna.position_tokens(cache, 1, k=3),
            "head effects": tna.head_effects(model, ids[0], 5, heads=[(0, 1)], progress=False),
        }
        frames = {name: found.to_frame().to_csv() for name, found in printed.items() if hasattr(found, "to_frame")}
        tables = {name: str(found) for name, found in printed.items()}
        return {name: str(view.body) for name, view in views.items()}, tables, frames


def of_prompts(model, texts):
    """What is drawn of in-context prompts, and of the four stages: label words and tokens are the texts."""
    with reading(model, texts):
        prompts = [replace(p, labels=(texts[0], texts[1 % len(texts)]), query=texts[-1]) for p in tiny_prompts(model)]
        _, cache = model.run_with_cache(batch_of(model, prompts[:2]).tokens)
        shown = {"heads": [(0, 1), (2, 3)]}
        chain = cna.logic_chain(model, torch.arange(9), 5, head=(2, 1), k=4, shallow=4, hops=1)
        views = {
            "label sources": vis.label_sources(cache, prompts[:2], **shown),
            "label differences": vis.label_differences(cache, prompts[:2], **shown),
            "tower split": vis.tower_split(two_towers(cache, prompts[:2], layer=1, head=1)),
            "logic chain": vis.logic_chain(chain, name=texts[0]),
            "logic chains": vis.logic_chains(cna.LogicChains(texts[0], (chain, chain)), name=texts[0]),
        }
        return {name: str(view.body) for name, view in views.items()}, {"logic chain": str(chain)}


def structures(pages):
    return {name: Structure(page).found for name, page in pages.items()}


@pytest.fixture(scope="module")
def harmless(model):
    return of_tokens(model, [HARMLESS], torch.arange(50)[None])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_element_comes_from_a_token_of_a_cache(model, harmless, first):
    pages, tables, frames = of_tokens(model, HOSTILE[first : first + 50], torch.arange(50)[None])
    assert structures(pages) == structures(harmless[0])
    same_tables(tables, harmless[1])
    for name, frame in frames.items():
        frame.encode()  # no lone surrogate
        rows, expected = (len(list(csv.reader(io.StringIO(each)))) for each in (frame, harmless[2][name]))
        assert rows == expected, f"a token broke a row of the frame of {name}"


def same_tables(tables, harmless):
    """As many lines, and nothing that a terminal would act on."""
    for name, table in tables.items():
        assert len(table.split("\n")) == len(harmless[name].split("\n")), name
        assert all(c.isprintable() or c == "\n" for c in table), name


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_element_comes_from_a_label_or_a_token_of_a_chain(model, first):
    pages, tables = of_prompts(model, HOSTILE[first : first + 50])
    harmless_pages, harmless_tables = of_prompts(model, [HARMLESS, "other"])
    assert structures(pages) == structures(harmless_pages)
    same_tables(tables, harmless_tables)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_the_command_line_prints_a_hostile_token_on_its_line(model, first, run):
    with reading(model, HOSTILE[first : first + 50]), patch("tl_neuron_attr.model.loading.load", return_value=model):
        code, out, err = run("neurons", "--prompt", "w1 w2 w3", "--target", "w5", "-k", "5")
    assert code == 0, err
    assert all(c.isprintable() or c == "\n" for c in out), out
