import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr import demo
from tl_neuron_attr.incontext import Example, from_demo, icl_prompts, read_examples

MODEL = demo.load()
BATCH_SIZE = [Example(f"{a} {n}", "good") for a in ("great", "lovely", "superb") for n in ("movie", "plot")] + [
    Example(f"{a} {n}", "bad") for a in ("awful", "boring", "dull") for n in ("movie", "plot")
]


@given(k=st.integers(2, 6), seed=st.integers(0, 50))
def test_prompts_are_drawn_by_the_rules(k, seed):
    prompts = icl_prompts(MODEL, BATCH_SIZE, 4, k=k, seed=seed)
    of = {row.text: row.label for row in BATCH_SIZE}
    for i, prompt in enumerate(prompts):
        assert prompt.gold == i % 2 and sum(prompt.counts) == k and max(prompt.counts) - min(prompt.counts) <= 1
        assert all(of[text] == prompt.classes[label] for text, label in prompt.demonstrations)
        assert of[prompt.query] == prompt.classes[prompt.gold]
        texts = [prompt.query, *(text for text, _ in prompt.demonstrations)]
        assert len(set(texts)) == len(texts)
    assert prompts == icl_prompts(MODEL, BATCH_SIZE, 4, k=k, seed=seed)


def test_classes_and_counts_can_be_fixed():
    prompts = icl_prompts(MODEL, BATCH_SIZE, 6, k=3, classes=("bad", "good"), counts=(1, 2))
    assert {p.classes for p in prompts} == {("bad", "good")} and {p.counts for p in prompts} == {(1, 2)}
    assert len({p.classes for p in icl_prompts(MODEL, BATCH_SIZE, 20)}) == 2


def test_the_demo_worlds_prompts_keep_all_they_know():
    for form in range(4):
        drawn = demo.in_context(5, 4, form=form, seed=form)
        for prompt, made in zip(drawn, from_demo(MODEL, drawn), strict=True):
            assert made.text == prompt.text and made.label_positions == prompt.label_positions
            assert (made.sequence, made.gold, made.labels) == (prompt.sequence, prompt.gold, prompt.labels)
            assert (made.classes, made.query) == (prompt.classes, prompt.query)
            assert [stop for _, stop in (*made.spans, made.query_span)] == list(prompt.separator_positions)
    with pytest.raises(ValueError, match="no label is right for the query 'N/A'"):
        from_demo(MODEL, demo.in_context(1, 2, query="empty"))


def test_files_are_read_and_bad_rows_reported(tmp_path):
    (tmp_path / "a.csv").write_text('sentence,kind\n"great, really",good\n,bad\nawful\n')
    found = read_examples(tmp_path / "a.csv", text="sentence", label="kind")
    assert found.examples == (Example("great, really", "good"),)
    assert [p.split(", ")[1] for p in found.problems] == [
        "row 2: column 'sentence' is empty",
        "row 3: column 'kind' is missing; there are ['sentence'",
    ]
    lines = [json.dumps({"text": " two\nlines ", "label": 1}), "{", "[1]", json.dumps({"text": "x"})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    found = read_examples(tmp_path / "b.jsonl")
    assert found.examples == (Example("two lines", "1"),)
    assert ["not JSON" in p or "not an object but list" in p or "'label' is missing" in p for p in found.problems] == [
        True, True, True
    ]  # fmt: skip


def test_a_dataset_gives_its_class_names():
    class Dataset(list):
        def __init__(self, rows):
            super().__init__(rows)
            self.features = {"label": SimpleNamespace(names=["neg", "pos"])}

    found = read_examples(Dataset([{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": 2}]))
    assert found.examples == (Example("a", "pos"), Example("b", "neg"))
    assert found.problems == ("rows, row 3: column 'label' is 2, none of the classes 0 to 1",)


def test_sources_that_will_not_do_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of examples at .*nothing.csv"):
        read_examples(tmp_path / "nothing.csv")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a.txt must be a .csv or .jsonl file"):
        read_examples(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"a.csv holds no example and is empty"):
        read_examples(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="rows holds no example; rows, row 1: column 'text' is missing"):
        read_examples([{"a": 1}])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 8}, "the class .* has 6 different texts|a prompt needs"),
        ({"counts": (1, 2)}, "counts must be a number above 0 for each of the 2 labels, adding up to k = 4"),
        ({"counts": (4, 0)}, "counts must be a number above 0"),
        ({"k": 1}, "k at least the number of labels, 2, got 3 and 1"),
        ({"classes": ("good",)}, "classes must name a class for each of the 2 labels"),
        ({"classes": ("good", "fair")}, "the class 'fair' has 0 different texts, a prompt needs"),
        ({"labels": ("foo", "bar", "baz")}, "examples are of 2 classes, labels of 3"),
    ],
)
def test_drawing_what_is_not_there_is_refused(options, message):
    rows = BATCH_SIZE if options.get("k") != 8 else BATCH_SIZE[:3] + BATCH_SIZE[6:9]
    with pytest.raises(ValueError, match=message):
        icl_prompts(MODEL, rows, 3, **options)
