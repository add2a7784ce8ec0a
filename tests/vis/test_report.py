"""The page: what it says, and what it does in a real browser."""

import json
import re

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tl_neuron_attr as tna
from tests import architectures
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import demo, evaluate, vis

PROMPT = "Tim Duncan plays the sport of"

HOSTILE = [
    "</script><script>window.hacked=1</script>", "<img src=x onerror='window.hacked=1'>", 
    "<svg onload=window.hacked=1>",
    "<iframe src=javascript:parent.hacked=1>", '" onmouseover="window.hacked=1', "' onmouseover='window.hacked=1",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;", "<!--", "-->", "]]>", "{{ 7*7 }}", "${window.hacked=1}", "\\u003cb",
    "<style>*{display:none}</style>", "<b>", "&#60;b&#62;", "\u2028window.hacked=1", "`${window.hacked=1}`",
    "javascript:window.hacked=1", "<a href=javascript:window.hacked=1>", "$\\alpha$", "\x00",
]  # fmt: skip


@pytest.fixture(scope="module")
def cache():
    return demo.load().run_with_cache(PROMPT)[1]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report whose every token, 200 of them, tries to be something else than text."""
    model = architectures.build("llama", dtype=torch.float32)
    words = [f"{HOSTILE[i % len(HOSTILE)]} {i}" for i in range(97)]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=words[0]).save_pretrained(folder)
    model.tokenizer = AutoTokenizer.from_pretrained(folder)
    return model.run_with_cache(torch.arange(200)[None] % 97)[1]


def test_the_page_is_self_contained_and_small(cache):
    page = vis.report(cache, " basketball").page()
    assert len(page.encode()) <= 2e6
    assert page.count("window.tnaPacked = ") == 1
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page.replace(str(vis.circuits.bundle()), ""))


def test_the_page_is_the_same_bytes_twice_and_names_the_licence_of_what_it_carries(cache):
    pages = [vis.report(cache, " basketball", k=5, heads=2).page() for _ in range(2)]
    assert pages[0] == pages[1]
    assert "Copyright (c) 2022 Alan Cooney" in pages[0]


def data_of(view):
    return json.loads(re.search(r'id="tna-data">(.*?)</script>', str(view.body), re.DOTALL)[1])


def test_the_page_holds_what_the_functions_compute(cache):
    view = vis.report(cache, " basketball", k=12, heads=3, queries=5, suppressing=4)
    data, tables = data_of(view), data_of(view)["tables"]
    value = tna.value_neurons(cache, " basketball", 12)[0]
    assert [row["neuron"] for row in tables["value"]] == value.labels
    assert [row["score"] for row in tables["value"]] == pytest.approx(value.score.tolist())
    query = tna.query_neurons(cache, tna.value_neurons(cache, " basketball", 12), 5)[0]
    assert [row["neuron"] for row in tables["query"]] == query.labels
    lowest = tna.value_neurons(cache, " basketball", 4, largest=False)[0]
    assert [row["neuron"] for row in tables["suppressing"]] == lowest.labels
    layers, heads = tna.attribute_layers(cache, " basketball"), tna.attribute_heads(cache, " basketball")[0]
    assert f"layer 2, mlp: {float(layers.mlp[0, 2]):+.4f} nats" in view.body
    assert f"L3H1: {float(heads[3, 1]):+.4f} nats" in view.body
    torch.testing.assert_close(torch.tensor(data["heads"]), heads)  # the page finds them in another product
    best = [f"L{i // heads.shape[1]}H{i % heads.shape[1]}" for i in heads.flatten().topk(3).indices.tolist()]
    assert [row["head"] for row in tables["heads"]] == best
    assert all(
        f'<tr data-unit="{unit}"' in view.body for unit in (*best, *(name.split("@")[0] for name in value.labels))
    )


def test_what_the_neurons_cost_is_measured_where_the_run_can_be_repeated(cache):
    view = vis.report(cache, " basketball", k=3, suppressing=0, queries=0)
    found = evaluate.verify(
        demo.load(), PROMPT, tna.value_neurons(cache, " basketball", 3)[0], " basketball", progress=False
    )
    assert data_of(view)["without"] == {str(n): pytest.approx(cost) for n, cost in found.joint.items()}
    assert [row["effect"] for row in data_of(view)["tables"]["value"]] == pytest.approx(found.neurons.effect.tolist())
    unmeasured = vis.report(cache, " basketball", k=3, suppressing=0, queries=0, measure=False)
    assert data_of(unmeasured)["without"] is None and "measured" not in unmeasured.body
    assert "effect" not in data_of(unmeasured)["tables"]["value"][0]


def test_a_target_that_is_not_the_first_choice_is_said_to_be_none(cache):
    assert "ranked" not in vis.report(cache, " basketball", k=2).body
    body = vis.report(cache, " golf", k=2).body
    log_probs = tna.scored(cache, " golf").log_probs()[0]
    rank = int((log_probs > log_probs[demo.load().to_single_token(" golf")]).sum()) + 1
    assert f"ranked {rank}th, the first choice is <bdi>basketball</bdi>" in re.sub("\\s+", " ", body).replace("2nd", "")


def test_without_a_target_the_prediction_is_explained(cache):
    assert vis.report(cache).title == "What made the model say basketball?"


def test_the_contrast_is_named(cache):
    body = vis.report(cache, " basketball", contrast=" golf").body
    assert "rather than" in body and "golf" in body


@pytest.mark.parametrize(("length", "most"), [(320, 3e6), (600, 6e6)])
def test_a_long_prompt_keeps_the_page_small(length, most):
    model = architectures.build("llama", dtype=torch.float32)
    _, cache = model.run_with_cache(torch.randint(0, 93, (1, length)))
    assert len(vis.report(cache, 5, measure=False).page().encode()) <= most


@needs_browser
def test_the_page_draws_without_errors_or_requests(cache, tmp_path):
    path = vis.report(cache, " basketball").save(tmp_path / "report.html")
    with opened(path) as page:
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        assert page.run("return document.querySelectorAll('svg.tna-chart').length") == 2
        assert page.run("return document.querySelectorAll('.tna-sources tr').length") == 8
        assert page.run("return document.querySelector('h1').innerText") == "What made the model say basketball?"
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert page.errors() == [] and page.requests() == []


@needs_browser
def test_views_draw_in_a_notebooks_cells(cache, tmp_path):
    """Several views on one page, as a notebook inserts them, the bundle with each scripted one."""
    views = (vis.attention(cache, [(2, 1)]), vis.neurons(tna.value_neurons(cache, " basketball", 3)), vis.report(cache))
    cells = "".join(f"<div class='cell'>{view._repr_html_()}</div>" for view in views)
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{cells}", encoding="utf-8")
    with opened(tmp_path / "notebook.html") as page:
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        page.driver.switch_to.frame(0)
        page.wait_for("return document.querySelectorAll('.tna-attention canvas').length > 0")
        page.driver.switch_to.default_content()
        assert page.run("return document.querySelectorAll('.tna-neurons tbody tr').length") == 3
        ink = "return getComputedStyle(document.querySelector('.cell > .tna')).color"
        inks = [page.run(f"document.body.dataset.jpThemeLight = '{light}'; {ink}") for light in ("true", "false")]
        assert inks == ["rgb(29, 35, 48)", "rgb(227, 231, 238)"], "dark on light and light on dark, as the notebook is"
        assert page.errors() == [] and page.requests() == []


@needs_browser
def test_hostile_tokens_are_text(hostile, tmp_path):
    path = vis.report(hostile, 5, k=60).save(tmp_path / "hostile.html")
    with opened(path) as page:
        page.wait_for("return document.querySelectorAll('.tna-attention .strip').length == 8")
        assert page.run("return document.querySelectorAll('.prompt .token').length") == 201
        assert page.run("return window.hacked === undefined")
        assert page.run("return document.querySelectorAll('section iframe, section img, section a').length") == 0
        shown = page.run("return document.querySelector('.prompt').innerText")
        assert all(piece in shown for piece in ("</script><script>window.hacked=1</script> 0", "&lt;script&gt;", "<b>"))
        assert page.errors() == [] and page.requests() == []
