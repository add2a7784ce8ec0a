import re
from html import unescape
from xml.etree import ElementTree

import pytest

from tests import architectures
from tl_neuron_attr import demo, vis
from tl_neuron_attr.incontext import (
    batch_of,
    from_demo,
    icl_prompt,
    label_attention,
    label_logit_difference,
    label_scores,
    two_towers,
    with_query,
)
from tl_neuron_attr.incontext import learned_metric as metric_of

SVG = "{http://www.w3.org/2000/svg}"
HEADS = [(2, 1), (3, 0)]


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    return from_demo(model, demo.in_context(3, 4, counts=(2, 2)))


@pytest.fixture(scope="module")
def cache(model, prompts):
    return model.run_with_cache(batch_of(model, prompts).tokens)[1]


def titles(view):
    return [t.text for svg in re.findall(r"<svg.*?</svg>", view.body, re.DOTALL) for t in marks(svg, "title")]


def texts(view):
    return ["".join(t.itertext()) for t in marks(re.findall(r"<svg.*?</svg>", view.body, re.DOTALL)[0], "text")]


def marks(svg, name):
    return ElementTree.fromstring(svg).iter(f"{SVG}{name}")


def test_labels_are_coloured_by_their_attention_and_the_rest_is_said(prompts, cache):
    view = vis.label_sources(cache, prompts, HEADS, prompt=1)
    asked, attention = prompts[1], label_attention(cache, prompts)[1]
    lines = re.findall(r"<tr>.*?</tr>", view.body, re.DOTALL)
    assert not view.scripted and len(lines) == len(HEADS)
    for line, (layer, head) in zip(lines, HEADS, strict=True):
        shades = re.findall(r'<bdi class="(up|down)(?: strong)?" style="--share:([\d.]+)%"', line)
        values = [float(share) / 100 * (1 if sign == "up" else -1) for sign, share in shades]
        expected = [0.0] * len(asked)
        for position, label, weight in zip(
            asked.label_positions, asked.sequence, attention[layer, head].tolist(), strict=True
        ):
            expected[position] = weight if label == 0 else -weight
        assert values == pytest.approx(expected, abs=5.1e-4), "to a tenth of a percent"
        foo = sum(v for v in expected if v > 0)
        rest = 1 + sum(min(v, 0) for v in expected) - foo
        assert f"foo {100 * foo:.0f} %" in view.body and f"elsewhere {100 * rest:.0f} %" in view.body


def test_bars_are_the_label_differences(prompts, cache):
    found = label_logit_difference(cache, prompts)
    by_position = vis.label_differences(cache, prompts, HEADS, prompt=2)
    for i, label in enumerate(prompts[2].sequence):
        for layer, head in HEADS:
            value = float(found[2, layer, head, i])
            assert f"L{layer}H{head}, {i + 1}: {prompts[2].labels[label]}: {value:.3g}" in titles(by_position)
    means = vis.label_differences(cache, prompts, HEADS, weighted=False)
    plain = label_logit_difference(cache, prompts, weighted=False)
    at_bar = [float(plain[p, 3, 0, i]) for p in range(3) for i in range(4) if prompts[p].sequence[i] == 1]
    assert f"L3H0, at bar: {sum(at_bar) / len(at_bar):.3g}" in titles(means)
    assert "logit(foo) − logit(bar)" in texts(means) and "weighted logit(foo) − logit(bar)" in texts(by_position)


def test_the_score_matrix_has_demonstrations_in_rows_and_queries_in_columns(model, prompts):
    asked = with_query(model, prompts[0], [("great song", 0), ("awful plot", 1), ("old movie", 1)])
    _, cache = model.run_with_cache(batch_of(model, asked).tokens)
    view = vis.score_matrix(cache, asked, layer=2, head=1)
    scores = label_scores(cache, asked)
    text, label = prompts[0].demonstrations[3]
    row = f"{text} : {prompts[0].labels[label]}"
    assert f"{row}, awful plot : bar: {float(scores[1, 2, 1, 3]):+.3g} score" in titles(view)
    assert len(titles(view)) == 12
    with pytest.raises(ValueError, match="prompts must have the same demonstrations"):
        vis.score_matrix(cache, prompts, layer=2, head=1)


def test_the_split_has_a_matrix_for_each_side_and_its_sums(prompts, cache):
    towers = two_towers(cache, prompts, layer=2, head=1)
    view = vis.tower_split(towers, prompt=1)
    text, word = towers.demonstrations[1][2]
    place = towers.components.index("L1 attn")
    for side in (towers.by_query, towers.by_key):
        assert f"{text} : {word}, L1 attn: {float(side[1, 2, place]):+.3g} score" in titles(view)
    assert titles(view).count(f"{text} : {word}, sum: {float(towers.score[1, 2]):+.3g} score") == 2
    with pytest.raises(IndexError, match="prompt must lie between 0 and 2, got 3"):
        vis.tower_split(towers, prompt=3)


def test_the_metric_has_three_bars_a_head(model, prompts):
    found = metric_of(model, prompts, heads=HEADS)
    view, row = vis.learned_metric(found), found.summary().iloc[1]
    for name, column in (("score", "auc"), ("cosine before", "cosine_auc"), ("centred cosine", "centred_auc")):
        assert f"L3H0, {name}: {row[column]:.3g}" in titles(view)


def test_texts_are_shown_and_never_interpreted():
    model = architectures.build("llama")
    model.tokenizer = architectures.tokenizer()
    labels, evil = ("w1", "w2"), "w5"
    prompt = icl_prompt(model, [(evil, "w1"), ("w8", "w2")], "w7", "w1", labels=labels, separator=" w0 ")
    hostile, long = "<img/src=x/onerror=alert(1)>$x_{$", "so " * 40
    object.__setattr__(prompt, "demonstrations", ((hostile, 0), (long, 1)))
    object.__setattr__(prompt, "labels", ("</script><b>", "$\\frac$"))
    _, cache = model.run_with_cache(batch_of(model, [prompt]).tokens)
    views = [
        vis.label_sources(cache, [prompt], [(1, 0)]),
        vis.label_differences(cache, [prompt], [(1, 0)]),
        vis.score_matrix(cache, [prompt], layer=1, head=0),
        vis.tower_split(two_towers(cache, [prompt], layer=1, head=0)),
    ]
    for view in views:
        assert "<img" not in view.body and "<b>" not in view.body
    for view in views[2:]:
        assert hostile in unescape(view.body) and long[:35] in view.body and long[:40] not in view.body


def test_heads_and_prompts_that_are_not_there_are_refused(model, prompts, cache):
    _, one = model.run_with_cache(batch_of(model, prompts[:1]).tokens)
    for view in (vis.label_sources, vis.label_differences):
        with pytest.raises(ValueError, match="heads is empty"):
            view(cache, prompts, [])
        with pytest.raises(IndexError, match=r"head .*must lie between 0 and 7, got 8"):
            view(cache, prompts, [(1, 8)])
        with pytest.raises(IndexError, match="prompt must lie between 0 and 2, got 3"):
            view(cache, prompts, [(1, 1)], prompt=3)
    with pytest.raises(IndexError, match=r"layer .*must lie between"):
        vis.score_matrix(one, prompts[:1], layer=9, head=0)
