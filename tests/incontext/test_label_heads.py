import torch

from tl_neuron_attr.incontext.label_heads import label_heads
from tl_neuron_attr.incontext.outcomes import Outcomes


def outcomes(log_odds):
    gold = torch.arange(log_odds.shape[-1]) % 2
    flags = torch.ones_like(log_odds, dtype=torch.bool)
    return Outcomes(gold, torch.zeros_like(log_odds, dtype=torch.long), flags, log_odds, log_odds)


def test_a_head_leans_to_the_label_it_is_worth_more_to():
    noise = 0.1 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    of_foo = (torch.arange(40) % 2 == 0).float()
    lost = torch.stack([of_foo + noise, (1 - of_foo) - of_foo + noise, 0.5 + noise])
    found = label_heads(outcomes(torch.zeros(40)), outcomes(-lost), [(1, 0), (1, 1), (2, 3)], ("foo", "bar"))
    assert found["label"].tolist() == ["foo", "bar", ""]
    assert found[["layer", "head"]].to_numpy().tolist() == [[1, 0], [1, 1], [2, 3]]
    assert abs(found["more"][0] - 1) < 0.1 and abs(found["more"][1] - 2) < 0.1
    assert (found["low"] <= found["more"]).all() and (found["more"] <= found["high"]).all()
