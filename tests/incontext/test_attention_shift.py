"""What moves when labels are reversed, against the model worked out on paper; then on the bundled model."""

import pytest

from tests.incontext import handmade
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import attention_shift, from_demo, reordered, reversed_labels
from tl_neuron_attr.incontext.static_scores import static_scores


def worked_out(prompt, label):
    """The reader's attention to a label, its difference weighted and not, on paper."""
    query, texts, labels = handmade.parts(prompt)
    scale = handmade.final_scale(handmade.out(query, texts, labels))
    unit = handmade.UNEMBED * handmade.COPY / handmade.SCALE_1 / scale * (1 - 2 * label)
    attention = sum(a for a, own in zip(handmade.attention(query, texts), labels, strict=True) if own == label)
    return {"attention": attention, "weighted": attention * unit, "unweighted": unit}


def test_it_is_as_worked_out():
    model = handmade.build()
    prompts = handmade.prompts(model, 6)
    shift = attention_shift(model, prompts, [(1, 0)], batch_size=4)
    relabelled = reversed_labels(model, prompts)
    assert len(shift.to_frame()) == 12
    for row in shift.to_frame().to_dict("records"):
        pair = [prompts[row["prompt"]], relabelled[row["prompt"]]]
        before, after = pair if pair[0].gold == 0 else reversed(pair)
        label = ("w1", "w2").index(row["label"])
        for when, prompt in (("before", before), ("after", after)):
            found = {name: row[f"{name}_{when}"] for name in ("attention", "weighted", "unweighted")}
            assert found == pytest.approx(worked_out(prompt, label), abs=1e-5, rel=1e-5)
    summary = shift.summary().set_index("label")
    assert summary.loc["w1", "attention_change"] < -30 and summary.loc["w2", "attention_change"] > 30
    assert summary["unweighted_change"].abs().max() < 5


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    return from_demo(model, demo.in_context(30, 4, counts=(2, 2), query="strong"))


@pytest.fixture(scope="module")
def heads(model, prompts):
    """The four heads that raise the answer most, among those that attend to labels."""
    static = static_scores(model, prompts)
    scores = static.increase.mean(0) * (static.attention.mean(0) > 0.3)
    best = scores.flatten().topk(4).indices.tolist()
    return [divmod(i, scores.shape[1]) for i in best]


def test_in_the_bundled_model_attention_moves_and_what_is_copied_does_not(model, prompts, heads):
    shift = attention_shift(model, prompts, heads)
    summary = shift.summary()
    changes = summary.groupby("label")["attention_change"].median()
    assert changes["foo"] < -20 and changes["bar"] > 20
    assert summary["unweighted_change"].abs().max() < 20
    assert bool((summary["attention_low"] <= summary["attention_change"]).all())
    assert "30 prompts and the same with labels reversed" in str(shift)


def test_a_set_compared_with_itself_does_not_move(model, prompts, heads):
    shift = attention_shift(model, prompts, heads, others=prompts)
    assert shift.summary()[["attention_change", "weighted_change", "unweighted_change"]].abs().max().max() < 1e-9
    backwards = attention_shift(model, prompts, heads, others=reordered(model, prompts, [3, 2, 1, 0]))
    assert backwards.summary()["attention_change"].abs().max() > 0


def test_what_will_not_do_is_refused(model, prompts):
    with pytest.raises(IndexError, match="head of"):
        attention_shift(model, prompts, [(1, 8)])
    with pytest.raises(ValueError, match="others must hold one prompt per prompt"):
        attention_shift(model, prompts, [(0, 0)], others=prompts[1:])
    with pytest.raises(ValueError, match="heads is empty"):
        attention_shift(model, prompts, [])
    with pytest.raises(ValueError, match="prompts is empty"):
        attention_shift(model, [], [(0, 0)])
    with pytest.raises(IndexError, match="pair must lie between 0 and 1, got 2"):
        attention_shift(model, prompts, [(0, 0)], pair=(0, 2))
