"""What a comparison ranks, sums and prints, against its own grids."""

from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.cna import NeuronComparison, compare_neurons

TOKENS = architectures.prompts()


@torch.no_grad()
def comparison(site: str = "mlp") -> NeuronComparison:
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(TOKENS)
    with tna.ablate(model, [(1, 2)]):
        _, other = model.run_with_cache(TOKENS)
    return compare_neurons(cache, other, 5, site=site)


@pytest.mark.parametrize("site", ["mlp", "attn"])
def test_top_is_the_sorted_change(site):
    found = comparison(site)
    best = found.top(9)
    for row in range(2):
        expected = found.change[row].flatten().sort(descending=True, stable=True)
        torch.testing.assert_close(best.score[row], expected.values[:9])
        for i in range(9):
            at = [int(getattr(best, name)[row, i]) for name in ("layer", "head", "source", "index")]
            where = (at[0], at[3]) if site == "mlp" else tuple(at)
            assert found.change[row][where] == best.score[row, i]
            assert found.coefficient[row][where] == best.coefficient[row, i]
            assert found.other_coefficient[row][where] == found.other_coefficients(best)[row, i]
    worst = found.top(1, largest=False)
    assert float(worst.score.min()) == float(found.change.min())


def test_cases_are_summed_and_united():
    found = comparison()
    whole = found.summed()
    torch.testing.assert_close(whole.change, found.change[0] + found.change[1])
    torch.testing.assert_close(whole.coefficient, (found.coefficient[0] + found.coefficient[1]) / 2)
    union = found.united(6)
    expected = {label for row in range(2) for label in found.top(6)[row].labels}
    assert set(union.labels) == expected and len(union) == len(expected)
    scores = [float(whole.change[int(la), int(i)]) for la, i in zip(union.layer, union.index, strict=True)]
    assert union.score.tolist() == scores == sorted(scores, reverse=True)
    again = NeuronComparison.joined([found, found])
    torch.testing.assert_close(again.summed().change, 2 * whole.change)


def test_it_prints_both_runs():
    found = comparison()
    text = str(found)
    assert "other coefficient" in text and "2 cases summed" in text and found.summed().top(1).labels[0] in text
    frame = found.to_frame(5)
    assert len(frame) == 5 and frame["change"].tolist() == pytest.approx(
        (frame["increase"] - frame["other_increase"]).tolist()
    )


def test_bad_arguments_are_named():
    found = comparison()
    with pytest.raises(ValueError, match="k must be between 1 and the 240 mlp neurons, got 241"):
        found.top(241)
    with pytest.raises(ValueError, match="batches is empty"):
        NeuronComparison.joined([])
    with pytest.raises(ValueError, match="not of one site"):
        NeuronComparison.joined([found, replace(found, site="attn")])
