"""The report's numbers against one prompt at a time and plain arithmetic."""

import statistics

import pytest
import torch

from tests import architectures
from tests.incontext import handmade
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    from_demo,
    icl_biases,
    icl_prompt,
    majority_correction,
    position_free_attention,
    reordered,
)

HEADS = [(2, 0), (2, 3), (3, 2), (3, 4), (3, 7)]
ORDERS = [(0, 0, 1, 1), (1, 1, 0, 0), (0, 1, 1, 0)]


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    drawn = demo.in_context(16, 4, counts=(2, 2), seed=3)
    return sorted(from_demo(model, drawn), key=lambda prompt: prompt.gold)


@pytest.fixture(scope="module")
def report(model, prompts):
    return icl_biases(model, prompts, HEADS, orders=ORDERS, batch_size=7, among="labels", progress=False)


def said(model, prompt, hooks):
    """Whether the right label is the likelier one, and the attention to labels in the heads, of one prompt alone."""
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits, cache = model.run_with_cache(torch.tensor([prompt.tokens]))
    right = logits[0, -1, list(prompt.label_ids)].argmax() == prompt.gold
    patterns = [cache[f"blocks.{at}.attn.hook_pattern"][0, h, -1, list(prompt.label_positions)] for at, h in HEADS]
    return float(right), [pattern.tolist() for pattern in patterns]


def mean(values):
    return sum(values) / len(values)


def without(model, prompt, i):
    kept = [(text, prompt.labels[label]) for j, (text, label) in enumerate(prompt.demonstrations) if j != i]
    return icl_prompt(model, kept, prompt.query, prompt.labels[prompt.gold], labels=prompt.labels, end=" . ")


def ordered(model, prompt, sequence):
    queues = {label: [i for i, own in enumerate(prompt.sequence) if own == label] for label in (0, 1)}
    return reordered(model, [prompt], [queues[label].pop(0) for label in sequence])[0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_majority_is_what_removing_demonstrations_one_by_one_gives(model, prompts, report, when):
    def right(prompt):
        return said(model, prompt, majority_correction(model, [prompt], HEADS) if when == "after" else [])[0]

    base = [right(prompt) for prompt in prompts]
    moved = {}
    for removed in (0, 1):
        lost = [
            [right(without(model, p, i)) for i, label in enumerate(p.sequence) if label == removed] for p in prompts
        ]
        moved[removed] = [mean(values) - b for values, b in zip(lost, base, strict=True)]
    cells = {}
    for gold, name in ((0, "foo"), (1, "bar"), (None, "all")):
        rows = [i for i, p in enumerate(prompts) if gold in (None, p.gold)]
        for removed in (0, 1):
            cells[name, removed] = mean([moved[removed][i] for i in rows])
            chosen = report.changes.query("gold == @name and when == @when")["value"].tolist()
            assert chosen[removed] == pytest.approx(cells[name, removed])
        expected = mean([abs(cells[name, r]) for r in (0, 1)])
        assert report.value("majority", "fluctuation", name)[when] == pytest.approx(expected)
        assert report.value("majority", "accuracy", name)[when] == pytest.approx(mean([base[i] for i in rows]))
    gaps = [cells["foo", 1] - cells["foo", 0], cells["bar", 0] - cells["bar", 1]]
    assert report.value("majority", "gap", "bar")[when] == pytest.approx(gaps[1])
    assert report.value("majority", "gap")[when] == pytest.approx(mean(gaps))


@pytest.mark.parametrize("when", ["before", "after"])
def test_recency_is_what_the_orders_one_by_one_give(model, prompts, report, when):
    right, given = {}, {}
    for order in ORDERS:
        for i, prompt in enumerate(prompts):
            moved = ordered(model, prompt, order)
            hooks = position_free_attention(model, HEADS, prompts=[moved]) if when == "after" else []
            right[order, i], attention = said(model, moved, hooks)
            texts = [text for text, _ in moved.demonstrations]
            given[order, i] = [dict(zip(texts, row, strict=True)) for row in attention]
    for gold, name in ((0, "foo"), (1, "bar"), (None, "all")):
        rows = [i for i, p in enumerate(prompts) if gold in (None, p.gold)]
        by_order = [mean([right[order, i] for i in rows]) for order in ORDERS]
        assert report.orders.query("gold == @name and when == @when")["value"].tolist() == pytest.approx(by_order)
        assert report.value("recency", "deviation", name)[when] == pytest.approx(statistics.pstdev(by_order))
        spreads = [
            statistics.pstdev([given[order, i][head][text] for order in ORDERS])
            for i in rows
            for head in range(len(HEADS))
            for text, _ in prompts[i].demonstrations
        ]
        assert report.value("recency", "attention deviation", name)[when] == pytest.approx(mean(spreads), rel=1e-4)
        levels = [a for order in ORDERS for i in rows for head in given[order, i] for a in head.values()]
        assert report.value("recency", "attention", name)[when] == pytest.approx(mean(levels), rel=1e-4)


def test_numbers_have_their_intervals_and_print(report):
    frame = report.to_frame()
    for name in ("before", "after"):
        means = frame[frame["measure"].isin(["accuracy", "attention"])]
        assert bool(((means[f"{name}_low"] <= means[name]) & (means[name] <= means[f"{name}_high"])).all())
    text = str(report)
    assert "biases before and after correction of 5 heads, 16 prompts; accuracy" in text
    assert "mean of labels" in text and "<table>" in report._repr_html_()
    assert report.orders["order"].unique().tolist() == ["foo foo bar bar", "bar bar foo foo", "foo bar bar foo"]
    with pytest.raises(KeyError, match="no 'gap' of 'recency' for 'all' in this report"):
        report.value("recency", "gap", "all")


def test_on_paper_attention_varies_with_the_order_and_then_does_not():
    model = handmade.build()
    prompts = handmade.prompts(model, 4)
    report = icl_biases(model, prompts, [(1, 0)], progress=False)
    spreads = []
    for prompt in prompts:
        query, texts, labels = handmade.parts(prompt)
        of_text = {text: [] for text in texts}
        for order in sorted({(0, 0, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 1, 0), (1, 1, 0, 0)}):
            queues = {label: [t for t, own in zip(texts, labels, strict=True) if own == label] for label in (0, 1)}
            moved = [queues[label].pop(0) for label in order]
            for text, attention in zip(moved, handmade.attention(query, moved), strict=True):
                of_text[text].append(attention)
        spreads += [statistics.pstdev(values) for values in of_text.values()]
    found = report.value("recency", "attention deviation", "all")
    assert found["before"] == pytest.approx(mean(spreads), rel=1e-4) and mean(spreads) > 0.01
    deviation = report.value("recency", "deviation", "all")
    assert deviation["before"] == deviation["after"] == 0
    assert "recency   deviation            all             0.000 [0.000, 0.000]  0.000 [0.000, 0.000]  -" in str(report)
    assert found["after"] < 1e-6 and found["change"] == pytest.approx(-100, abs=0.01)


def test_other_corrections_can_be_measured(model, prompts, report):
    none = icl_biases(
        model, prompts, HEADS, orders=ORDERS, among="labels", progress=False,
        majority=lambda group: majority_correction(model, group, HEADS, a_c=0),
        recency=lambda group: position_free_attention(model, HEADS, share=0),
    )  # fmt: skip
    frame = none.to_frame()
    assert frame["before"].tolist() == pytest.approx(report.to_frame()["before"].tolist())
    assert frame["after"].tolist() == pytest.approx(frame["before"].tolist(), rel=1e-5)


@pytest.mark.slow
def test_both_biases_are_there_and_both_corrections_reduce_them(model):
    prompts = from_demo(model, demo.in_context(400, 4, counts=(2, 2), seed=8))
    report = icl_biases(model, prompts, HEADS, progress=False)
    gap, deviation = report.value("majority", "gap"), report.value("recency", "attention deviation")
    assert gap["before_low"] > 0 and gap["after"] < gap["before"]
    assert deviation["after_high"] < 0.9 * deviation["before_low"]


def test_a_model_that_does_not_do_the_task_is_not_measured():
    model = architectures.build("llama", dtype=torch.float32)
    shown = [("w5", "w1"), ("w8", "w2"), ("w9", "w1"), ("w7", "w2")]
    prompts = [icl_prompt(model, shown, "w4", w, labels=("w1", "w2"), separator=" w0 ") for w in ("w1", "w2")] * 5
    report = icl_biases(model, prompts, [(1, 0)], progress=False)
    assert not report.does_task and report.frame.empty
    assert "the model does not do this task: accuracy" in str(report)


def test_prompts_it_cannot_compare_are_refused(model, prompts):
    uneven = from_demo(model, demo.in_context(2, 3, order=(0, 0, 1)))
    with pytest.raises(ValueError, match=r"as many demonstrations of each label, at least two; they have \[\(2, 1\)\]"):
        icl_biases(model, uneven, HEADS)
    with pytest.raises(ValueError, match=r"they have \[\(1, 1\)\]"):
        icl_biases(model, from_demo(model, demo.in_context(2, 2)), HEADS)
    with pytest.raises(ValueError, match=r"\['bar'\] is right in none of the prompts"):
        icl_biases(model, [p for p in prompts if p.gold == 0], HEADS)
    with pytest.raises(ValueError, match="orders must be at least two label sequences"):
        icl_biases(model, prompts, HEADS, orders=[(0, 1, 0, 1)])
    with pytest.raises(ValueError, match="sequence must have the labels of the demonstrations"):
        icl_biases(model, prompts, HEADS, orders=[(0, 1, 0, 1), (0, 0, 0, 1)])
    with pytest.raises(ValueError, match="heads is empty"):
        icl_biases(model, prompts, [])
    with pytest.raises(IndexError, match=r"head of \(2, 9\)"):
        icl_biases(model, prompts, [(2, 9)])
    with pytest.raises(ValueError, match="different labels"):
        other = from_demo(model, demo.in_context(1, 4, counts=(2, 2), labels=("A", "B")))
        icl_biases(model, [*prompts, *other], HEADS)
