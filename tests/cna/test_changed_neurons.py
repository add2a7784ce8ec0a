"""The certified search for changes against sorting every neuron's change, which has its own oracle."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.cna import changed_neurons, compare_neurons

TOKENS = architectures.prompts()


@torch.no_grad()
def zeroed(name, **options):
    model = architectures.build(name, **options)
    _, cache = model.run_with_cache(TOKENS)
    with tna.ablate(model, [(1, 2)]):
        _, other = model.run_with_cache(TOKENS)
    return cache, other


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gemma3", "neox_parallel", "opt"])
@pytest.mark.parametrize("site", ["mlp", "attn"])
def test_they_are_the_first_of_all_neurons_by_change(name, site):
    cache, other = zeroed(name)
    target, pos = torch.tensor([3, 9]), torch.tensor([4, 6])
    every = compare_neurons(cache, other, target, site=site, pos=pos)
    for largest in (True, False):
        found = changed_neurons(cache, other, target, 15, site=site, pos=pos, largest=largest)
        expected = every.top(15, largest=largest)
        assert found.labels == expected.labels
        torch.testing.assert_close(found.score, expected.score, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(found.coefficient, expected.coefficient)
        assert found.text is not None


@pytest.mark.parametrize("site", ["mlp", "attn"])
def test_only_the_layers_named_are_searched(site):
    cache, other = zeroed("llama")
    every = compare_neurons(cache, other, 5, site=site)
    inside = [label for label in every.top(every.change[0].numel()).labels[0] if label.startswith(("L0", "L2"))]
    found = changed_neurons(cache, other, 5, 12, site=site, layers=[2, 0], text=False)
    assert found.labels[0] == inside[:12]
    with pytest.raises(ValueError, match="k must be between 1 and the 80 mlp neurons, got 81"):
        changed_neurons(cache, other, 5, 81, layers=[1])
    with pytest.raises(IndexError, match="layers names a layer twice"):
        changed_neurons(cache, other, 5, 3, layers=[1, 1])


def test_against_a_contrast_the_change_is_linear_and_nothing_is_evaluated_twice():
    cache, other = zeroed("llama")
    found = changed_neurons(cache, other, 5, 10, contrast=7, text=False)
    expected = compare_neurons(cache, other, 5, contrast=7).top(10)
    assert found.labels == expected.labels and found.text is None
    torch.testing.assert_close(found.score, expected.score, atol=1e-8, rtol=1e-6)


def test_on_a_trained_model_few_neurons_are_scored():
    model = tna.demo.load()
    _, cache = model.run_with_cache("3 + 5 =")
    with tna.ablate(model, [(3, 2)]):
        _, other = model.run_with_cache("3 + 5 =")
    found = changed_neurons(cache, other, "8", 10)
    assert found.labels == compare_neurons(cache, other, "8").top(10).labels
    assert int(found.evaluated[0]) < 0.5 * tna.attribute_mlp_neurons(cache, "8").numel()


def test_of_a_run_with_itself_nothing_changed_and_next_to_nothing_is_scored():
    model = tna.demo.load()
    _, cache = model.run_with_cache("3 + 5 =")
    found = changed_neurons(cache, cache, "8", 10)
    assert not found.score.any() and int(found.evaluated[0]) < 100
    assert found.labels == compare_neurons(cache, cache, "8").top(10).labels


def test_what_cannot_be_compared_is_refused():
    cache, other = zeroed("llama")
    with pytest.raises(ValueError, match="k must be between 1 and the 240 mlp neurons, got 241"):
        changed_neurons(cache, other, 5, 241)
    _, shorter = cache.model.run_with_cache(TOKENS[:, 1:])
    with pytest.raises(ValueError, match="tokens per prompt: 7 in cache, 6 in other"):
        changed_neurons(cache, shorter, 5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("site", ["mlp", "attn"])
@pytest.mark.parametrize("contrast", [None, (7, 2)])
@torch.no_grad()
def test_of_an_answer_they_are_the_first_by_the_sum_over_its_tokens(name, site, contrast):
    model = architectures.build(name)
    against = None if contrast is None else torch.tensor(contrast)
    whole = tna.answer(model, TOKENS[0], torch.tensor([5, 17, 5]), contrast=against)
    with tna.ablate(model, [(1, 2)]):
        _, other = model.run_with_cache(whole.stream.tokens())
    every = compare_neurons(whole, other, site=site)
    for largest in (True, False):
        found, expected = (
            changed_neurons(whole, other, k=15, site=site, largest=largest),
            every.top(15, largest=largest),
        )
        assert found.labels == expected.labels
        torch.testing.assert_close(found.score, expected.score, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(found.per_token.score.sum(0), found.score, atol=1e-8, rtol=1e-6)


def test_an_answer_at_the_end_of_a_cache_is_a_target_and_a_set_is_none():
    cache, other = zeroed("llama")
    end = tna.Answer(tuple(TOKENS[0, -2:].tolist()))
    found = changed_neurons(cache, other, [end, tna.Answer(tuple(TOKENS[1, -2:].tolist()))], 5, text=False)
    each = [changed_neurons(cache, other, TOKENS[:, i], 240, pos=i - 1, text=False) for i in (5, 6)]
    for row, (label, score) in enumerate(zip(found.labels, found.score, strict=True)):
        parts = [of.score[row, of.labels[row].index(label[0])] for of in each]
        assert float(score[0]) == pytest.approx(float(sum(parts)), abs=1e-8)
    with pytest.raises(ValueError, match="this target is several right answers"):
        changed_neurons(cache, other, tna.any_of(5, 7), 5)
