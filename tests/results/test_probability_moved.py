"""How probability moved prints: signs, visible spaces, what was left out."""

from dataclasses import replace

import torch

from tl_neuron_attr.results.probability_moved import MovedTokens

ONE = MovedTokens(
    labels=("L3N7",),
    raised=(((" Paris", 0.25), ("\n", 0.0125)),),
    lowered=((),),
    promoted=((" Paris", " Rome"),),
    suppressed=((" a", " b"),),
    target=(" Paris",),
    target_moved=torch.tensor([0.25]),
    target_logit=torch.tensor([1.5]),
    target_rank=torch.tensor([2]),
)


def test_a_row_shows_probability_moved_beside_the_raw_projection():
    assert ONE.table().rows == [("L3N7", "␣Paris", 0.25, 1.5, 2, "␣Paris +0.25 | \\n +0.013", "", "␣Paris | ␣Rome")]
    assert "left out" not in str(ONE) and "7 other tokens left out" in str(replace(ONE, left_out=7))


def test_the_frame_has_every_field():
    frame = ONE.to_frame()
    assert frame["raised"][0] == [(" Paris", 0.25), ("\n", 0.0125)] and frame["lowered"][0] == []
    assert frame["suppressed"][0] == [" a", " b"] and frame["target_rank"][0] == 2


def test_equal_where_every_field_is():
    assert replace(ONE) == ONE and replace(ONE, target_logit=torch.tensor([1.0])) != ONE
