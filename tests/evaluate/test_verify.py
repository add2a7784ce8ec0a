"""Verified effects against ablating by hand."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import verify

PROMPT, TARGET = "Tim Duncan plays the sport of", " basketball"


@pytest.fixture(scope="module")
def model():
    return tna.demo.load()


@pytest.fixture(scope="module")
def value(model):
    _, cache = model.run_with_cache(PROMPT)
    return tna.value_neurons(cache, TARGET, k=12)[0]


def left(model, components):
    token = model.to_single_token("basketball")
    with torch.no_grad(), tna.ablate(model, components):
        return float(model(PROMPT)[0, -1].log_softmax(-1)[token])


def test_an_mlp_neurons_effect_is_that_of_ablating_it(model, value):
    found = verify(model, PROMPT, value, TARGET, progress=False)
    mlp = value.of_site("mlp")
    measured = found.neurons.effect[value.site == 1]
    for i in range(len(mlp)):
        assert float(measured[i]) == pytest.approx(found.log_prob - left(model, mlp.pick([i])), abs=1e-5)


def test_the_joint_effect_is_that_of_ablating_the_first_few(model, value):
    mlp = value.of_site("mlp")
    found = verify(model, PROMPT, mlp, TARGET, progress=False)
    assert list(found.joint) == [*(n for n in (1, 3, 10) if n < len(mlp)), len(mlp)]
    for n, effect in found.joint.items():
        assert effect == pytest.approx(found.log_prob - left(model, mlp.top(n)), abs=1e-5)


def test_neurons_replaced_by_their_mean_over_the_prompt(model, value):
    one = value.of_site("mlp").top(1)
    layer, index = int(one.layer[0]), int(one.index[0])
    found = verify(model, PROMPT, one, TARGET, baseline="mean", progress=False)

    def mean(post, hook):
        post = post.clone()
        post[:, :, index] = post[:, :, index].mean()
        return post

    with torch.no_grad():
        logits = model.run_with_hooks(PROMPT, fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", mean)])[0, -1]
    without = float(logits.log_softmax(-1)[model.to_single_token("basketball")])
    assert float(found.neurons.effect[0]) == pytest.approx(found.log_prob - without, abs=1e-5)


def test_a_draw_is_an_activation_of_the_reference_and_the_same_with_a_seed(model, value):
    mlp = value.of_site("mlp")
    draws = [
        verify(model, PROMPT, mlp, TARGET, baseline="resample", reference=["3 + 5 ="], seed=seed, progress=False)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0].neurons.effect, draws[1].neurons.effect)
    assert not torch.equal(draws[0].neurons.effect, draws[2].neurons.effect)


@torch.no_grad()
def test_of_an_attention_neuron_the_value_at_its_source_is_replaced(model, value):
    one = value.of_site("attn").top(1)
    layer, head, source, index = (int(getattr(one, name)[0]) for name in ("layer", "head", "source", "index"))
    reference = ["3 + 5 =", "the nurse said that"]  # of other lengths
    _, cache = model.run_with_cache(PROMPT)
    caches = [model.run_with_cache(text)[1] for text in reference]
    name, ends = f"blocks.{layer}.attn.hook_v", f"blocks.{layer}.attn.hook_pattern"
    kv = head * cache[name].shape[2] // cache[ends].shape[1]
    mean = torch.cat([each[name][0, :, kv, index] for each in caches]).mean()
    less = cache[ends][0, head, -1, source] * (cache[name][0, source, kv, index] - mean)

    def replace(z, hook):
        z = z.clone()
        z[0, -1, head, index] -= less
        return z

    logits = model.run_with_hooks(PROMPT, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", replace)])[0, -1]
    without = float(logits.log_softmax(-1)[model.to_single_token("basketball")])
    found = verify(model, PROMPT, one, TARGET, baseline="mean", reference=reference, progress=False)
    assert float(found.neurons.effect[0]) == pytest.approx(found.log_prob - without, abs=1e-5)


def test_what_cannot_be_measured_is_refused(model, value):
    with pytest.raises(ValueError, match="reference is used by baseline='mean'"):
        verify(model, PROMPT, value, TARGET, reference=["3 + 5 ="], progress=False)
    with pytest.raises(ValueError, match="reference is empty"):
        verify(model, PROMPT, value.of_site("mlp"), TARGET, baseline="mean", reference=[], progress=False)
    _, cache = model.run_with_cache(["3 + 5 =", "3 + 4 ="])
    with pytest.raises(ValueError, match="2 prompts"):
        verify(model, PROMPT, tna.value_neurons(cache, "8", k=2), "8", progress=False)


def test_effects_are_kept_by_files_frames_and_tables(model, value, tmp_path):
    found = verify(model, PROMPT, value, TARGET, progress=False).neurons
    found.save(tmp_path / "verified")
    assert tna.Neurons.load(tmp_path / "verified") == found
    assert found.to_frame().effect.tolist() == found.effect.tolist()
    assert "effect" in found.table().headings
    assert found != value


@torch.no_grad()
def test_an_answer_loses_what_its_tokens_lose():
    model = architectures.build("llama")
    prompt, answer = architectures.prompts(1, 4)[0], (5, 17, 5)
    q = tna.answer(model, prompt, tna.Answer(answer))
    value = tna.value_neurons(q, k=3, sites="mlp")
    found = verify(model, prompt, value, tna.Answer(answer), progress=False)
    assert found.log_prob == pytest.approx(float(q.log_prob), abs=1e-6)
    with tna.ablate(model, value):
        log_p = model(q.stream.tokens())[0].double().log_softmax(-1)
    left = sum(float(log_p[3 + i, token]) for i, token in enumerate(answer))
    assert found.joint[3] == pytest.approx(found.log_prob - left, abs=1e-6)


@torch.no_grad()
def test_an_attention_neuron_is_taken_out_for_every_token_of_an_answer():
    """By plain hooks: what it carries to each position that predicts a token, all in one run."""
    model = architectures.build("llama")
    prompt, answer, other = architectures.prompts(1, 4)[0], (5, 17, 5), (9, 3)
    value = tna.value_neurons(tna.answer(model, prompt, tna.Answer(answer)), k=1, sites="attn")
    layer, head, source, index = (int(getattr(value, name)[0]) for name in ("layer", "head", "source", "index"))
    expected = []
    for tokens in (answer, other):
        whole = torch.cat([prompt, torch.tensor(tokens)])[None]
        _, cache = model.run_with_cache(whole)
        name, at = f"blocks.{layer}.attn", range(3, 3 + len(tokens))
        kv = head * cache[f"{name}.hook_v"].shape[2] // cache[f"{name}.hook_pattern"].shape[1]
        carried = cache[f"{name}.hook_pattern"][0, head, :, source] * cache[f"{name}.hook_v"][0, source, kv, index]

        def less(z, hook, at=at, carried=carried):
            z = z.clone()
            z[0, list(at), head, index] -= carried[list(at)]
            return z

        both = model(whole), model.run_with_hooks(whole, fwd_hooks=[(f"{name}.hook_z", less)])
        log_p = [logits[0, list(at)].double().log_softmax(-1)[range(len(tokens)), list(tokens)] for logits in both]
        expected.append(float((log_p[0] - log_p[1]).sum()))
    found = verify(model, prompt, value, tna.Answer(answer), progress=False)
    assert float(found.neurons.effect[0]) == pytest.approx(expected[0], abs=1e-6)
    found = verify(model, prompt, value, tna.Answer(answer), contrast=tna.Answer(other), progress=False)
    assert found.joint[1] == pytest.approx(expected[0] - expected[1], abs=1e-6)


@torch.no_grad()
def test_of_several_right_answers_the_summed_probability_is_lost(model, value):
    mlp = value.of_site("mlp")
    found = verify(model, PROMPT, mlp, tna.any_of(TARGET, " tennis"), progress=False)
    with tna.ablate(model, mlp):
        p = model(PROMPT)[0, -1].softmax(-1)
    kept = sum(p[model.to_single_token(word)] for word in ("basketball", "tennis"))
    assert found.joint[len(mlp)] == pytest.approx(found.log_prob - float(kept.log()), abs=1e-5)
