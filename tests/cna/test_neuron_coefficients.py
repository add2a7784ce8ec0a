"""Neurons found by bounds against those of a slow loop over all."""

import sys

import pytest

from tests import architectures
from tests.cna.test_coefficients import CASES, perturbed, scored_slowly
from tl_neuron_attr import cna


def test_coefficients_of_named_neurons():
    model, other = architectures.build("llama"), perturbed("llama")
    frame = cna.neuron_coefficients(model, {"mine": other, "itself": model}, CASES[0], k=4)
    ours, theirs = scored_slowly(model, model, CASES[0]), scored_slowly(other, model, CASES[0])
    best = sorted(range(len(ours)), key=lambda i: ours[i][0] - theirs[i][0])[:4]
    assert frame["neuron"].tolist() == [f"L{i // 80}N{i % 80}" for i in best]
    assert frame["original"].tolist() == pytest.approx([ours[i][1] for i in best], abs=1e-9)
    assert frame["itself"].tolist() == frame["original"].tolist()
    assert frame["mine"].tolist() == pytest.approx([theirs[i][1] for i in best], abs=1e-9)


def test_neurons_of_several_models_are_those_of_the_largest_sum_and_not_all_are_scored(monkeypatch):
    """One model alone uses other neurons more than three do together; here a short search does not decide."""
    model, others = architectures.build("llama"), {f"draw {seed}": perturbed("llama", seed=seed) for seed in range(3)}
    searched = []

    def watched(*runs, **options):
        searched.append(options["k"])
        return cna.changed_neurons(*runs, **options)

    monkeypatch.setattr(sys.modules["tl_neuron_attr.cna.neuron_coefficients"], "changed_neurons", watched)
    frame = cna.neuron_coefficients(model, others, CASES[1], k=3)
    ours, theirs = scored_slowly(model, model, CASES[1]), [scored_slowly(o, model, CASES[1]) for o in others.values()]
    raised = [sum(their[i][0] - ours[i][0] for their in theirs) for i in range(len(ours))]
    best = sorted(range(len(ours)), key=lambda i: -raised[i])[:3]
    assert frame["neuron"].tolist() == [f"L{i // 80}N{i % 80}" for i in best]
    for name, their in zip(others, theirs, strict=True):
        assert frame[name].tolist() == pytest.approx([their[i][1] for i in best], abs=1e-9)
    assert 3 < max(searched) < len(ours)


def test_bad_input_is_named():
    model = architectures.build("llama")
    with pytest.raises(ValueError, match="others is empty"):
        cna.neuron_coefficients(model, {}, CASES[0])
    for k in (0, 241):
        with pytest.raises(ValueError, match=f"k must be between 1 and the 240 mlp neurons, got {k}"):
            cna.neuron_coefficients(model, {"itself": model}, CASES[0], k=k)
