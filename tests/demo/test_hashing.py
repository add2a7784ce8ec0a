import hashlib
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr.demo.hashing import fraction, one_of, shuffled, split_of


def test_fraction_is_the_head_of_sha256():
    digest = hashlib.sha256(b"a\x1f1").hexdigest()
    assert fraction("a", 1) == int(digest[:12], 16) / 16**12


@given(st.lists(st.text(max_size=5), unique=True), st.text(max_size=5))
def test_shuffled_keeps_every_item_and_ignores_the_order_given(items: list[str], key: str):
    result = shuffled(items, key)
    assert Counter(result) == Counter(items)
    assert result == shuffled(reversed(items), key)


def test_splits_have_the_shares_asked_for():
    counts = Counter(split_of("test", i, held_out=0.1, tuning=0.05) for i in range(20_000))
    assert abs(counts["held_out"] / 20_000 - 0.1) < 0.01
    assert abs(counts["tuning"] / 20_000 - 0.05) < 0.01


def test_no_structure_of_the_operands_is_kept_out_whole():
    """A polynomial character hash keeps out one digit sum only; a cryptographic one touches them all."""
    sums = Counter(
        (a + b) % 10 for a in range(100) for b in range(100) if split_of(a, b, held_out=0.06, tuning=0.0) == "held_out"
    )
    assert len(sums) == 10
    assert max(sums.values()) < 2 * min(sums.values())


def test_pick_reaches_every_option():
    assert {one_of("abc", i) for i in range(50)} == set("abc")
