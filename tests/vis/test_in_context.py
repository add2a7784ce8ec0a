import re

import pytest

from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import demo, vis
from tl_neuron_attr.incontext import (
    attention_shift,
    batch_of,
    from_demo,
    icl_biases,
    in_context_heads,
    learned_metric,
    two_towers,
    with_query,
)


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def parts(model):
    """Something for every section of the page."""
    prompts = from_demo(model, demo.in_context(24, 4, counts=(2, 2), query="strong"))
    found = in_context_heads(model, prompts, n=2, layers=[2, 3], screen=True, search=1, random_sets=1, progress=False)
    _, cache = model.run_with_cache(batch_of(model, prompts).tokens)
    asked = with_query(model, prompts[0], [("great song", 0), ("awful plot", 1)])
    _, other = model.run_with_cache(batch_of(model, asked).tokens)
    layer, head = found.heads[0]
    return {
        "heads": found,
        "sources": vis.label_sources(cache, prompts, found.heads),
        "differences": vis.label_differences(cache, prompts, found.heads),
        "shift": attention_shift(model, prompts, found.heads),
        "metric": learned_metric(model, prompts, heads=found.heads),
        "scores": vis.score_matrix(other, asked, layer=layer, head=head),
        "split": vis.tower_split(two_towers(cache, prompts, layer=layer, head=head)),
        "biases": icl_biases(model, prompts, found.heads, progress=False),
    }


TITLES = {
    "heads": "Which heads",
    "sources": "Where they look",
    "differences": "What they copy",
    "shift": "When labels are reversed",
    "metric": "Do the towers measure similarity",
    "scores": "Scores of demonstrations and queries",
    "split": "What the towers compare",
    "biases": "How large the two biases are",
}


@pytest.mark.parametrize("part", TITLES)
def test_each_part_has_its_section_and_no_other(parts, part):
    page = vis.in_context(**{part: parts[part]}).body
    assert [title in page for title in TITLES.values()] == [name == part for name in TITLES]


def test_the_page_shows_what_was_found(parts):
    view = vis.in_context(**parts, name="<i>demo</i>")
    page = view.page()
    assert not view.scripted and view.whole and "&lt;i&gt;demo&lt;/i&gt;" in page and "<i>demo" not in page
    for layer, head in parts["heads"].heads:
        assert f"L{layer}H{head}" in page
    for row in parts["shift"].summary().to_dict("records"):
        assert f"L{row['layer']}H{row['head']}, labels reversed: {row['attention_after']:.3g}" in page
    for row in parts["heads"].zeroed.to_dict("records"):
        assert f"{row['zeroed'].split(',')[0]} ({row['heads']}), all: {row['accuracy']:.3g}" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_a_model_that_does_not_do_the_task_is_said_not_to(model):
    """Right answers turned round: the accuracy is below chance."""
    prompts = from_demo(model, demo.in_context(24, 4, counts=(2, 2), query="strong"))
    wrong = with_query(model, prompts[0], [(p.query, (p.gold + i) % 2) for i, p in enumerate(prompts)])
    found = in_context_heads(model, wrong, progress=False)
    assert not found.does_task
    page = vis.in_context(heads=found).body
    assert "The model does not do this task: no heads were looked for." in page and "What zeroing costs" not in page


def test_the_page_holds_what_a_scripted_view_draws_with(model):
    _, cache = model.run_with_cache("Tim Duncan plays the sport of")
    assert vis.in_context(sources=vis.attention(cache, [(2, 0)])).scripted


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="there is nothing to show"):
        vis.in_context()


@needs_browser
def test_the_page_opens_without_a_request_or_an_error(parts, tmp_path):
    path = vis.in_context(**parts).save(tmp_path / "page.html")
    with opened(path) as page:
        lines = len(parts["heads"].heads)
        assert page.wait_for(f"return document.querySelectorAll('.tna-sources td bdi').length > {10 * lines}")
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert page.requests() == [] and page.errors() == []
