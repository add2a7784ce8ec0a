import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr import demo
from tl_neuron_attr.demo.classes import LOG_ODDS, NEUTRAL, TOPICS, item_split
from tl_neuron_attr.demo.world_vocabulary import IDS, encode


@given(
    k=st.integers(0, 8),
    form=st.integers(0, 3),
    task=st.sampled_from(["sentiment", "topic"]),
    query=st.sampled_from(["ordinary", "strong", "weak", "neutral", "empty"]),
    seed=st.integers(0, 1000),
)
def test_positions_point_at_labels_and_separators(k: int, form: int, task: str, query: str, seed: int):
    for p in demo.in_context(2, k, form=form, task=task, query=query, seed=seed):  # pyright: ignore[reportArgumentType]
        tokens = encode(p.text)
        assert [tokens[i] for i in p.label_positions] == [IDS[p.labels[s]] for s in p.sequence]
        assert [tokens[i] for i in p.separator_positions] == [IDS[":"]] * (k + 1)
        assert p.separator_positions[-1] == len(tokens) - 1
        assert p.text.endswith(f"{p.query} :")
        assert p.answer == p.labels[max(p.gold, 0)]
        assert (p.gold == -1) == (query in ("neutral", "empty"))


@given(first=st.integers(0, 4), second=st.integers(0, 4), seed=st.integers(0, 100))
def test_counts_are_kept(first: int, second: int, seed: int):
    (p,) = demo.in_context(1, first + second, counts=(first, second), seed=seed)
    assert (p.sequence.count(0), p.sequence.count(1)) == (first, second)


def test_order_and_gold_are_kept():
    prompts = demo.in_context(20, 3, order=(1, 0, 1), gold=1)
    assert {p.sequence for p in prompts} == {(1, 0, 1)}
    assert {p.answer for p in prompts} == {"bar"}


def test_both_assignments_of_labels_to_classes_occur_equally():
    prompts = demo.in_context(2000, 2)
    share = sum(p.classes == ("positive", "negative") for p in prompts) / 2000
    assert {p.classes for p in prompts} == {("positive", "negative"), ("negative", "positive")}
    assert abs(share - 0.5) < 0.05


def test_the_classes_are_those_the_items_show():
    """Strong queries only: the adjective's sign is the class its label stands for."""
    for p in demo.in_context(300, 2, query="strong"):
        (odds,) = [LOG_ODDS[w] for w in p.query.split() if w in LOG_ODDS]
        assert abs(odds) > 2.5
    agree = [
        (LOG_ODDS[p.query.split()[0]] > 0) == (p.classes[p.gold] == "positive")
        for p in demo.in_context(2000, 2, query="strong")
    ]
    assert sum(agree) / len(agree) > 0.97


def test_ordinary_queries_may_mislead_as_often_as_the_reliabilities_say():
    agree = [(LOG_ODDS[p.query.split()[0]] > 0) == (p.classes[p.gold] == "positive") for p in demo.in_context(4000, 2)]
    assert 0.92 < sum(agree) / len(agree) < 0.97


def test_topic_queries_are_of_the_gold_topic():
    for p in demo.in_context(100, 2, task="topic"):
        assert p.query.split()[-1] in TOPICS[p.classes[p.gold]]


def test_neutral_queries_have_no_sentiment():
    for p in demo.in_context(100, 2, query="neutral"):
        assert p.query.split()[0] in NEUTRAL
    assert {p.query for p in demo.in_context(5, 2, query="empty")} == {"N/A"}


@pytest.mark.parametrize("split", ["train", "tuning", "held_out"])
def test_queries_are_pairs_of_the_split(split: str):
    for p in demo.in_context(100, 2, split=split):  # pyright: ignore[reportArgumentType]
        adjective, noun = p.query.split()
        assert item_split(adjective, noun) == split
        assert adjective not in p.text.split()[:-3]


def test_a_seed_fixes_the_prompts():
    assert demo.in_context(10, 4, seed=3) == demo.in_context(10, 4, seed=3)
    assert demo.in_context(10, 4, seed=3) != demo.in_context(10, 4, seed=4)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"counts must be two numbers that add up to k = 4, got \(1, 2\)"):
        demo.in_context(1, 4, counts=(1, 2))
    with pytest.raises(ValueError, match=r"order must be k = 2 label indices"):
        demo.in_context(1, 2, order=(0, 2))
    with pytest.raises(ValueError, match="gold must be 0 or 1"):
        demo.in_context(1, 2, gold=2)
    with pytest.raises(TypeError, match="query must be"):
        demo.in_context(1, 2, query="easy")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="form must be"):
        demo.in_context(1, 2, form=4)
    with pytest.raises(TypeError, match="task must be"):
        demo.in_context(1, 2, task="food")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"labels must be two different words .*'fooo'"):
        demo.in_context(1, 2, labels=("fooo", "bar"))
    with pytest.raises(ValueError, match="labels must be two different words"):
        demo.in_context(1, 2, labels=("foo", "foo"))
