import re

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import vis


@pytest.fixture(scope="module")
def cache():
    return architectures.run("gpt2", batch=1, dtype=torch.float32)[1]


@pytest.fixture(scope="module")
def batch():
    return architectures.run("gpt2", dtype=torch.float32)[1]


def test_views_show_themselves_and_save_a_page(cache, tmp_path):
    views = [
        vis.layer_scores(tna.attribute_layers(cache, 5)),
        vis.head_scores(tna.attribute_heads(cache, 5)),
        vis.source_scores(["a", "b"], torch.randn(3, 2)),
        vis.attention(cache, [(0, 1), (2, 3)]),
        vis.neurons(tna.value_neurons(cache, 5, 4)),
        vis.report(cache, 5),
    ]
    for view in views:
        page = view.save(tmp_path / "view.html").read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>") and view.body in page
        assert ("tnaPacked" in page) == view.scripted
        assert view.whole == view._repr_html_().startswith("<iframe")
        assert view.title in repr(view)


def test_neurons_of_a_single_prompt_batch_need_no_index(cache):
    value = tna.value_neurons(cache, 5, 4)
    assert vis.neurons(value).body == vis.neurons(value[0]).body
    assert all(label in vis.neurons(value).body for label in value.flat_labels)


def test_several_prompts_are_refused_with_the_fix(batch):
    with pytest.raises(ValueError, match=r"scores are of 2 prompts; show one of them: scores\[0\]"):
        vis.layer_scores(tna.attribute_layers(batch, 5))
    with pytest.raises(ValueError, match=r"scores are of 2 prompts"):
        vis.head_scores(tna.attribute_heads(batch, 5))
    with pytest.raises(ValueError, match=r"neurons are of 2 prompts; show one of them: neurons\[0\]"):
        vis.neurons(tna.value_neurons(batch, 5, 4))
    page = vis.report(batch, 5, k=2, heads=1, queries=0, suppressing=0, measure=False)
    assert page.title == "What made the model say this: 2 prompts"  # a report has a part for each


def test_heads_and_prompts_out_of_range_are_refused(batch):
    for heads, message in (
        ([(3, 0)], "layer .*must lie between 0 and 2"),
        ([(0, 4)], "head .*must lie between 0 and 3"),
    ):
        with pytest.raises(IndexError, match=message):
            vis.attention(batch, heads)
    with pytest.raises(IndexError, match="prompt must lie between 0 and 1"):
        vis.attention(batch, [(0, 0)], prompt=2)
    with pytest.raises(ValueError, match="heads is empty"):
        vis.attention(batch, [])


def test_source_scores_must_fit_their_tokens_and_labels():
    for tokens, labels in ((["a"], None), (["a", "b"], ["x"])):
        with pytest.raises(ValueError, match=r"got shape \(3, 2\)"):
            vis.source_scores(tokens, torch.randn(3, 2), labels=labels)


def test_a_cache_without_tokens_shows_positions():
    model = architectures.build("gpt2", dtype=torch.float32)
    _, cache = model.run_with_cache(architectures.prompts(1), names_filter=lambda name: name != "embed.hook_in")
    assert '"@3"' in vis.attention(cache, [(0, 0)]).body
    assert "@3" in vis.report(cache, 5).body


def test_the_heads_of_the_largest_scores_are_listed_beside_the_heatmap():
    scores = torch.tensor([[0.5, -2.0], [0.0, 1.0]])
    cells = re.findall(r"<tr><td[^>]*>(\w+)</td><td[^>]*>([-+.\d]+)</td></tr>", vis.head_scores(scores, listed=9).body)
    assert cells == [("L0H1", "-2.0000"), ("L1H1", "+1.0000"), ("L0H0", "+0.5000")]
    assert "<table" not in vis.head_scores(scores, listed=0).body
    with pytest.raises(ValueError, match="listed must be 0 or more, got -1"):
        vis.head_scores(scores, listed=-1)
