"""Runs in pairs: each case once, as if it were compared alone."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.cna import Case
from tl_neuron_attr.cna.paired_runs import paired_changes, plain, zeroing

HEAD = (1, 2)
LENGTHS = (5, 7, 5, 4, 7, 5)


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama")


@pytest.fixture(scope="module")
def cases():
    row = architectures.prompts(1)[0].tolist()
    return [Case(tuple(row[i : i + n] + row[: max(0, i + n - len(row))]), 10 + i) for i, n in enumerate(LENGTHS)]


def test_a_zeroed_run_leaves_the_model_as_it_was(model, cases):
    tokens = torch.tensor([cases[0].tokens])
    before = model(tokens)
    silenced = zeroing(model, [HEAD])(tokens)
    assert not torch.equal(silenced["unembed.hook_out"], before)
    assert torch.equal(model(tokens), before)


def test_no_case_is_refused(model):
    with pytest.raises(ValueError, match="cases is empty"):
        next(paired_changes(plain(model), plain(model), [], 3, batch_size=2, what="test", progress=False))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_most_changed_neurons_are_those_of_each_case_compared_whole(model, cases, batch_size):
    runs, contrast = (plain(model), zeroing(model, [HEAD])), torch.arange(20, 26)
    options = {"batch_size": batch_size, "what": "test", "progress": False}
    seen = []
    for changed in paired_changes(*runs, cases, 6, contrast=contrast, **options):
        assert len(changed.indices) <= batch_size
        for row, i in enumerate(changed.indices):
            assert tuple(changed.tokens[row].tolist()) == cases[i].tokens
            ids = torch.tensor([cases[i].tokens])
            caches = [model.run_with_cache(ids)[1], zeroing(model, [HEAD])(ids)]
            whole = tna.compare_neurons(*caches, cases[i].answer, contrast=int(contrast[i]))
            expected = whole.top(6)
            assert changed.neurons[row].labels == expected.labels and changed.answers[row] == cases[i].answer
            torch.testing.assert_close(changed.coefficient[row], whole.coefficient[0])
            own = changed.other_coefficients(changed.neurons)[row]
            torch.testing.assert_close(own, whole.other_coefficients(expected)[0])
        seen += changed.indices
    assert sorted(seen) == list(range(len(cases)))
