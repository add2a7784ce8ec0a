"""Similarities against the model worked out on paper; AUCs against counting pairs."""

import math

import pandas as pd
import pytest
import torch

from tests import architectures
from tests.incontext import handmade
from tests.incontext.test_icl_batches import tiny_prompts
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import from_demo, icl_prompt, learned_metric
from tl_neuron_attr.incontext.learned_metric import LearnedMetric


def counted(pairs):
    """How often the same class is above another, by counting."""
    wins = [(s > o) + (s == o) / 2 for s in pairs[True] for o in pairs[False]]
    return sum(wins) / len(wins)


def of_prompts(frame, measure):
    groups = frame.groupby(["prompt", "same"])[measure].agg(list).unstack().to_dict("records")
    return sum(counted(group) for group in groups) / len(groups)


def test_the_handmade_head_is_a_metric_and_cosine_before_it_another():
    """Cosines on paper: constant, fill (sqrt 5 at a separator, 2 at a label) and the features, over equal norms."""
    model = handmade.build()
    prompts = handmade.prompts(model, 8)
    found = learned_metric(model, prompts, heads=[(1, 0)], batch_size=3)
    frame = found.to_frame()
    assert frame["prompt"].tolist() == [i for i in range(8) for _ in range(4)]
    for i, prompt in enumerate(prompts):
        rows = frame[frame["prompt"] == i]
        query, texts, labels = handmade.parts(prompt)
        assert rows["score"].tolist() == pytest.approx(handmade.label_scores(query, texts), abs=1e-5, rel=1e-5)
        assert rows["attention"].tolist() == pytest.approx(handmade.attention(query, texts), abs=1e-5, rel=1e-5)
        assert rows["same"].tolist() == [label == prompt.gold for label in labels]
        assert rows["label"].tolist() == [prompt.labels[label] for label in labels]
        alike = [sum(a * b for a, b in zip(handmade.feature(query), handmade.feature(t), strict=True)) for t in texts]
        square = handmade.MOVED_BY**2
        expected = [(1 + 2 * math.sqrt(5) + square * a) / (handmade.SQUARE + square) for a in alike]
        assert rows["cosine"].tolist() == pytest.approx(expected, abs=1e-6)
    (row,) = found.summary().to_dict("records")
    assert row["auc"] == of_prompts(frame, "score") > 0.8
    assert row["cosine_auc"] == of_prompts(frame, "cosine")
    assert row["gain"] == pytest.approx(row["auc"] - row["cosine_auc"])


@torch.no_grad()
def test_centring_takes_out_the_mean_over_prompts():
    """By hand, prompt by prompt: less the mean last stream, and less the mean stream at labels of the same word."""
    model = demo.load()
    prompts = from_demo(model, demo.in_context(5, 4, order=(0, 1, 1, 0)))
    resid = [model.run_with_cache(torch.tensor([p.tokens]))[1]["blocks.2.hook_resid_pre"][0].double() for p in prompts]
    last = torch.stack([x[-1] for x in resid])
    at = torch.stack([x[list(p.label_positions)] for x, p in zip(resid, prompts, strict=True)])
    means = {0: at[:, [0, 3]].mean((0, 1)), 1: at[:, [1, 2]].mean((0, 1))}
    frame = learned_metric(model, prompts, heads=[(2, 1)], batch_size=2).to_frame()
    for row in frame.to_dict("records"):
        i, d = row["prompt"], row["demonstration"]
        a, b = last[i] - last.mean(0), at[i, d] - means[prompts[i].sequence[d]]
        assert row["centred"] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-4)
        assert row["cosine"] == pytest.approx(float(last[i] @ at[i, d] / last[i].norm() / at[i, d].norm()), abs=1e-5)


def test_aucs_ties_and_accuracy_are_counted():
    def rows(prompt, same, other):
        return [
            {"prompt": prompt, "layer": 1, "head": 0, "label": "foo" if s else "bar", "same": s, "score": v}
            for s, values in ((True, same), (False, other))
            for v in values
        ]

    frame = pd.DataFrame([*rows(0, [3.0, 1.0], [2.0, 2.0]), *rows(1, [5.0], [1.0, 2.0, 5.0]), *rows(2, [1.0], [3.0])])
    frame["cosine"], frame["centred"] = 0.5, -frame["score"]
    (row,) = LearnedMetric(frame).summary().to_dict("records")
    assert row["auc"] == pytest.approx((0.5 + 2.5 / 3 + 0) / 3)
    assert row["accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)  # means 2 and 2 are tied, 5 beats 8 / 3, 1 loses
    assert (row["cosine_auc"], row["cosine_accuracy"]) == (0.5, pytest.approx(0.5))
    assert row["centred_auc"] == pytest.approx(1 - row["auc"])


@pytest.fixture(scope="module")
def found():
    model = demo.load()
    return learned_metric(model, from_demo(model, demo.in_context(60, 4, counts=(2, 2), query="strong")))


def test_in_the_bundled_model_some_scores_tell_the_class_far_above_chance(found):
    summary = found.summary()
    best = summary.loc[summary["auc"].idxmax()]
    assert best["auc_low"] > 0.8 and best["accuracy"] > 0.8 and best["same"] > best["other"]
    first = summary[summary["layer"] == 0]
    assert first["auc"].between(0.2, 0.8).all()  # before anything was moved a label knows nothing of its demonstration
    for row in summary.sample(3, random_state=0).to_dict("records"):
        own = found.frame[(found.frame["layer"] == row["layer"]) & (found.frame["head"] == row["head"])]
        assert row["auc"] == pytest.approx(of_prompts(own, "score"))


def test_the_table_shows_the_best_heads(found):
    text = str(found)
    assert "over 60 prompts, the best 12 of" in text and "chance is 0.5" in text
    shown = [row[0] for row in found.table().rows]
    best = found.summary().nlargest(12, "auc")
    assert shown[0] == f"L{best['layer'].iloc[0]:.0f}H{best['head'].iloc[0]:.0f}"


def test_what_will_not_do_is_refused():
    model = demo.load()
    prompts = from_demo(model, demo.in_context(2, 4))
    with pytest.raises(ValueError, match="heads is empty"):
        learned_metric(model, prompts, heads=[])
    with pytest.raises(IndexError, match="head of"):
        learned_metric(model, prompts, heads=[(0, 99)])
    with pytest.raises(ValueError, match="prompts is empty"):
        learned_metric(model, [])
    unshown = icl_prompt(
        model,
        [("great movie", "foo"), ("awful plot", "bar")],
        "old song",
        "baz",
        labels=("foo", "bar", "baz"),
        end=" . ",
    )
    with pytest.raises(ValueError, match=r"prompts\[0\] has no demonstration of its right label, 'baz'"):
        learned_metric(model, [unshown])


def test_architectures_that_hide_their_scores_are_refused():
    model = architectures.build("opt")
    with pytest.raises(ValueError, match="this architecture hides its scores"):
        learned_metric(model, tiny_prompts(model))
