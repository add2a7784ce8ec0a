import pytest
import torch

from tests import architectures
from tests.incontext import handmade
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import from_demo, icl_prompt, in_context_heads

QUIET = {"progress": False, "random_sets": 3}


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    return from_demo(model, demo.in_context(80, 4, counts=(2, 2), query="strong", seed=6))


@pytest.fixture(scope="module")
def found(model, prompts):
    return in_context_heads(model, prompts, n=6, **QUIET)


def test_the_reader_is_found_in_the_model_worked_out_on_paper():
    model = handmade.build()
    found = in_context_heads(model, handmade.prompts(model, 24), n=1, **QUIET)
    assert found.does_task and found.heads == [(1, 0)]
    scores = found.frame.set_index(["layer", "head"])
    assert scores.loc[(1, 0), "causal"] == 1.0 and scores.loc[(1, 0), "attention"] > 0.8
    zeroed = found.zeroed.set_index("zeroed")
    assert zeroed.loc["nothing", "accuracy"] == 1.0 and zeroed.loc["found heads", "accuracy"] == 0.0
    assert zeroed.loc["all others", "heads"] == 1


def test_every_head_has_its_scores(model, prompts, found):
    assert len(found.frame) == 40 and len(found.heads) == 6 and found.frame["candidate"].all()
    assert found.scores("static").shape == (5, 8)
    for word in ("foo", "bar"):
        assert (found.frame[f"causal_{word}"] >= -1).all() and found.frame[f"static_{word}"].notna().all()
        assert set(found.by_label[word]) <= set(found.heads)
    assert found.frame["found"].tolist() == [True] * 6 + [False] * 34
    assert "untouched accuracy" in str(found) and f"L{found.heads[0][0]}H{found.heads[0][1]}" in str(found)
    assert found.to_frame() is found.frame


def test_zeroing_is_measured_on_prompts_the_choice_did_not_see(found):
    rows = found.zeroed.set_index("zeroed")
    assert rows.loc["found heads", "heads"] == rows.loc["random heads, mean of 3 sets", "heads"] == 6
    assert rows.loc["all others", "heads"] == 34 and rows.loc["nothing", "heads"] == 0
    assert (rows["low"] <= rows["accuracy"]).all() and (rows["accuracy"] <= rows["high"]).all()


def test_layers_attention_and_screen_restrict_what_is_looked_at(model, prompts):
    deep = in_context_heads(model, prompts[:40], n=3, layers=[3, 2], min_attention=0.5, **QUIET)
    looked = deep.frame[deep.frame["candidate"]]
    assert set(looked["layer"]) == {2, 3} and looked["attention"].min() >= 0.5
    assert {layer for layer, _ in deep.heads} <= {2, 3}
    assert deep.zeroed.set_index("zeroed").loc["all others", "heads"] == 13  # of the layers looked at
    screened = in_context_heads(model, prompts[:40], n=2, screen=True, **QUIET)
    best = screened.frame.nlargest(8, "static").index
    assert set(screened.frame.index[screened.frame["candidate"]]) == set(best)


def test_the_same_seed_finds_the_same(model, prompts, found):
    again = in_context_heads(model, prompts, n=6, batch_size=16, **QUIET)
    assert again.heads == found.heads and again.zeroed["accuracy"].tolist() == found.zeroed["accuracy"].tolist()


def test_a_model_that_does_not_do_the_task_is_said_not_to():
    model = architectures.build("llama", dtype=torch.float32)
    pairs = [("w10", "w1"), ("w11", "w2")]
    prompts = [icl_prompt(model, pairs, f"w{20 + i}", f"w{1 + i % 2}", separator=" w0 ") for i in range(12)]
    found = in_context_heads(model, prompts, **QUIET)
    assert not found.does_task and found.heads == [] and found.by_label == {"w1": [], "w2": []}
    assert "the model does not do this task" in str(found) and "among='labels'" in str(found)
    assert found.zeroed["zeroed"].tolist() == ["nothing"] and found.smallest == []
    assert "does not do this task" in found._repr_html_()


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"n": 0}, ValueError, "n must be 1 or more, got 0"),
        ({"n": 41}, ValueError, "n must be between 1 and the 40 candidate heads, got 41"),
        ({"layers": [2, 5]}, IndexError, "layers must lie between 0 and 4, got 5"),
        ({"min_attention": 1.1}, ValueError, "no head is left: min_attention=1.1, .* of the 40 heads"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(model, prompts, options, error, message):
    with pytest.raises(error, match=message):
        in_context_heads(model, prompts[:16], **({"n": 2} | options), **QUIET)


def test_too_few_prompts_are_refused(model, prompts):
    with pytest.raises(ValueError, match="prompts are too few: 1 do not give two halves"):
        in_context_heads(model, prompts[:1], **QUIET)
    with pytest.raises(ValueError, match="prompts is empty"):
        in_context_heads(model, [], **QUIET)


def test_on_the_bundled_model_the_found_heads_attend_to_labels_and_write_them(found):
    """The heads both scores agree on are deep, look at labels, and raise the predicted label."""
    heads = found.frame[found.frame["found"]]
    assert (heads["static"] > 0).sum() >= 5 and heads["attention"].median() > 0.5
    assert (heads["layer"] >= 2).sum() >= 4


@pytest.mark.parametrize(
    "wrong, error", [({"n": 0}, ValueError), ({"search": -1}, ValueError), ({"random_sets": -1}, ValueError),
                     ({"layers": [7]}, IndexError)],
)  # fmt: skip
def test_what_is_asked_is_checked_also_where_the_model_does_not_do_the_task(wrong, error):
    model = architectures.build("llama", dtype=torch.float32)
    with pytest.raises(error, match=next(iter(wrong))):
        in_context_heads(model, tiny_prompts(model), **{**QUIET, **wrong})
