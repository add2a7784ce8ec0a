"""Numbers of neurons by field, against enumerating neurons one by one, and groups of prompts against their prompts."""

import torch

import tl_neuron_attr as tna
from tests import synthetic
from tl_neuron_attr.results.neuron_columns import COLUMNS, columns_at, joined_columns


def test_every_neuron_and_source_in_the_order_they_are_numbered():
    _, subs = synthetic.case(3, batch=2)
    expected = [
        (
            int(sub.site == "mlp"),
            sub.layer,
            neuron // (sub.width // sub.heads) if sub.site == "attn" else -1,
            source if sub.site == "attn" else -1,
            neuron % (sub.width // sub.heads),
            sub.coefficients[1, neuron, source].item(),
        )
        for sub in subs
        for neuron in range(sub.width)
        for source in range(sub.coefficients.shape[2])
    ]
    flat = torch.arange(len(expected)).expand(2, -1)
    found = columns_at(subs, flat)
    names = ("site", "layer", "head", "source", "index", "coefficient")
    assert list(zip(*(found[name][1].tolist() for name in names), strict=True)) == expected
    assert found["expert"] is None and found["expert_index"] is None


def test_joined_groups_hold_as_many_neurons_of_each_prompt(batch):
    joined = joined_columns([batch[:1], batch[1:]], k=4)
    for name in COLUMNS:
        assert torch.equal(joined[name], getattr(batch, name)[:, :4])
    assert "expert" not in joined and "token_score" not in joined


def test_shorter_answers_are_filled_up_with_scores_of_0_and_no_coefficient():
    model = tna.demo.load()
    long, short = (
        tna.value_neurons(tna.answer(model, "Tim Duncan plays the sport of", answer), k=3).unsqueeze()
        for answer in (" basketball .", " tennis")
    )
    joined = joined_columns([long, short], k=3)
    assert torch.equal(joined["token_score"][0], long.token_score[0])
    assert torch.equal(joined["token_score"][1, :1], short.token_score[0])
    assert joined["token_score"][1, 1].eq(0).all() and joined["token_coefficient"][1, 1].isnan().all()
