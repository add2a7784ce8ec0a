"""Answers of several tokens: the sum of what the oracle says of each token, on several architectures."""

from contextlib import nullcontext

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle

ANSWER = (5, 17, 5)
"""Three tokens, one of them twice."""

SINGLE = 1e-6
"""In nats: these models compute the scale of an RMSNorm in float32."""

NAMES = ["gpt2", "llama", "neox_parallel", "gemma2", "gemma3", "granite", "qwen3"]


@pytest.fixture(scope="module", params=NAMES)
def scored(request):
    model = architectures.build(request.param)
    return tna.answer(model, architectures.prompts(1, 4)[0], torch.tensor(ANSWER))


@pytest.fixture(scope="module")
def llama():
    return architectures.build("llama")


def oracle_scores(q, site):
    """``[layer, *neuron]``, the oracle's scores of single tokens added up."""
    cache = q.stream.cache
    return sum(
        oracle.neuron_scores(cache, site, [pos], [token])[0]
        for pos, token in zip(q.places.pos.tolist(), q.target.tolist(), strict=True)
    )


def test_it_is_scored_at_the_position_before_each_token(scored):
    assert scored.places.pos.tolist() == [3, 4, 5]
    with torch.no_grad():
        logits = scored.stream.model(scored.stream.tokens())[0].double()
    log_p = logits.log_softmax(-1)[[3, 4, 5], list(ANSWER)].sum()
    torch.testing.assert_close(scored.log_prob, log_p, atol=SINGLE, rtol=0)


def test_every_neuron_has_the_sum_of_the_oracles_scores(scored):
    torch.testing.assert_close(tna.attribute_mlp_neurons(scored), oracle_scores(scored, "mlp"), atol=1e-9, rtol=0)
    ours = tna.attribute_attn_neurons(scored)
    torch.testing.assert_close(ours, oracle_scores(scored, "attn"), atol=1e-9, rtol=0)


def test_heads_and_sources_have_the_sum_of_the_oracles_scores(scored):
    cache, q = scored.stream.cache, scored
    for layer in range(architectures.LAYERS):
        expected = 0
        for pos, token in zip(q.places.pos.tolist(), ANSWER, strict=True):
            by_source = oracle.writes(cache, layer, "attn", 0, pos).sum(2)
            both = [by_source, by_source.sum(1, keepdim=True)]
            expected = expected + oracle.increase(cache, layer, "attn", 0, pos, torch.cat(both, 1), token)
        torch.testing.assert_close(tna.attribute_head_positions(q)[layer], expected[:, :-1], atol=1e-9, rtol=0)
        torch.testing.assert_close(tna.attribute_heads(q)[layer], expected[:, -1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("largest", [True, False])
def test_the_certified_best_are_those_of_all_the_oracles_scores(scored, largest):
    mlp, attn = oracle_scores(scored, "mlp").flatten(), oracle_scores(scored, "attn").flatten()
    expected = torch.cat([mlp, attn]).sort(descending=largest).values[:30]
    with pytest.warns(UserWarning) if scored.readout.transform is not None else nullcontext():
        found = tna.value_neurons(scored, k=30, largest=largest)
    torch.testing.assert_close(found.score, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.per_token.score.sum(0), found.score, atol=1e-9, rtol=0)


def test_layers_and_the_embedding_make_the_answers_log_probability(scored):
    layers = tna.attribute_layers(scored)
    total = layers.attn.sum() + layers.mlp.sum()
    cache = scored.stream.cache
    start = sum(
        oracle.log_probs(cache, 0, pos, cache["blocks.0.hook_resid_pre"][0, pos].double())[token].detach()
        for pos, token in zip(scored.places.pos.tolist(), ANSWER, strict=True)
    )
    if cache.model.cfg.model_name == "tiny-neox_parallel":
        assert abs(float(total + start - scored.log_prob)) > 1e-3  # both sublayers of a block start from one stream
    else:
        torch.testing.assert_close(total + start, scored.log_prob, atol=1e-9, rtol=0)


FUNCTIONS = [
    tna.attribute_layers,
    tna.attribute_heads,
    tna.attribute_head_positions,
    tna.attribute_mlp_neurons,
    tna.attribute_attn_neurons,
    tna.baseline_scores,
]


def numbers(result):
    return torch.stack([result.attn, result.mlp], -1) if isinstance(result, tna.LayerScores) else result


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_token_by_itself_is_a_single_token_result_and_they_sum_to_the_whole(scored, function):
    each = numbers(function(scored.per_token))
    torch.testing.assert_close(each.sum(0), numbers(function(scored)), atol=1e-9, rtol=0)
    for row, pos, token in zip(each, scored.places.pos.tolist(), ANSWER, strict=True):
        alone = numbers(function(scored.stream.cache, token, pos=pos))[0]
        torch.testing.assert_close(row, alone, atol=1e-12, rtol=0)


def test_the_coefficient_shown_is_that_of_the_strongest_position(scored):
    if scored.readout.transform is not None:
        pytest.skip("the same without the warning")
    found = tna.value_neurons(scored, k=30)
    strongest = found.per_token.score.abs().argmax(0)
    assert torch.equal(found.coefficient, found.per_token.coefficient.gather(0, strongest[None])[0])


def test_small_memory_changes_nothing(llama):
    prompt = architectures.prompts(1, 4)[0]
    q = tna.answer(llama, prompt, torch.tensor(ANSWER))
    small = tna.answer(llama, prompt, torch.tensor(ANSWER), max_bytes=1)
    torch.testing.assert_close(tna.attribute_heads(small, max_bytes=1), tna.attribute_heads(q), atol=1e-12, rtol=0)
    assert tna.value_neurons(small, k=9, max_bytes=1).labels == tna.value_neurons(q, k=9).labels


def test_prompts_of_several_lengths_are_one_call_and_do_not_see_each_other(llama):
    prompts = [architectures.prompts(1, length, seed=length)[0] for length in (3, 6, 4)]
    answers = [torch.tensor([1, 2, 3]), torch.tensor([7]), torch.tensor([9, 9])]
    together = tna.answer(llama, prompts, answers)
    value = tna.value_neurons(together, k=5)
    for i, (prompt, each) in enumerate(zip(prompts, answers, strict=True)):
        alone = tna.answer(llama, prompt, each)
        torch.testing.assert_close(
            tna.attribute_mlp_neurons(together)[i], tna.attribute_mlp_neurons(alone), atol=1e-9, rtol=0
        )
        torch.testing.assert_close(together.log_prob[i], alone.log_prob, atol=1e-9, rtol=0)
        one = tna.value_neurons(alone, k=5)
        assert value[i].labels == one.labels
        torch.testing.assert_close(value[i].per_token.score, one.per_token.score, atol=1e-9, rtol=0)
    assert tna.attribute_heads(together.per_token).shape[0] == 6


def test_an_answer_of_one_token_is_a_target(llama):
    prompt = architectures.prompts(1, 5)
    _, cache = llama.run_with_cache(prompt)
    torch.testing.assert_close(
        tna.attribute_heads(tna.answer(llama, prompt[0], "w5")), tna.attribute_heads(cache, "w5")[0], atol=1e-9, rtol=0
    )


def assert_searches_find_the_best(q, expected):
    """The MLP neurons that raise and lower the target most are those of sorting every score."""
    for largest in (True, False):
        found = tna.value_neurons(q, k=12, sites="mlp", largest=largest)
        torch.testing.assert_close(
            found.score, expected.flatten().sort(descending=largest).values[:12], atol=1e-9, rtol=0
        )


def test_an_answer_may_be_compared_with_one_of_another_length(llama):
    prompt, other = architectures.prompts(1, 4)[0], torch.tensor([5, 30])
    q = tna.answer(llama, prompt, torch.tensor(ANSWER), contrast=other)
    ours, theirs = tna.answer(llama, prompt, torch.tensor(ANSWER)), tna.answer(llama, prompt, other)
    torch.testing.assert_close(q.log_prob, ours.log_prob - theirs.log_prob, atol=1e-9, rtol=0)
    expected = tna.attribute_mlp_neurons(ours) - tna.attribute_mlp_neurons(theirs)
    torch.testing.assert_close(tna.attribute_mlp_neurons(q), expected, atol=1e-9, rtol=0)
    assert_searches_find_the_best(q, expected)


def test_a_contrast_of_one_token_each_is_the_linear_one(llama):
    prompt = architectures.prompts(1, 5)
    _, cache = llama.run_with_cache(prompt)
    q = tna.answer(llama, prompt[0], "w5", contrast="w9")
    expected = tna.attribute_mlp_neurons(cache, "w5", contrast="w9")[0]
    torch.testing.assert_close(tna.attribute_mlp_neurons(q), expected, atol=1e-9, rtol=0)
    assert len(q.stream.cache["blocks.0.hook_resid_pre"]) == 1  # one run of the model serves both


def test_any_of_several_right_answers_is_the_log_of_their_summed_probability(llama):
    """By the oracle's log-probabilities before and after each neuron, of answers of one and of two tokens."""
    prompt = architectures.prompts(1, 4)[0]
    answers = [(5,), (7, 8), (7, 9)]
    q = tna.answer(llama, prompt, tna.any_of(*(tna.Answer(a) for a in answers)))
    alone = [tna.answer(llama, prompt, tna.Answer(a)) for a in answers]
    total = torch.stack([each.log_prob for each in alone]).logsumexp(0)
    torch.testing.assert_close(q.log_prob, total, atol=1e-9, rtol=0)
    before, after = [], []
    for each, tokens in zip(alone, answers, strict=True):
        cache = each.stream.cache
        for layer in range(architectures.LAYERS):
            start = sum(
                oracle.log_probs(cache, 0, 3 + i, oracle.base(cache, layer, "mlp", 0, 3 + i))[token]
                for i, token in enumerate(tokens)
            )
            before.append(start)
        after.append(torch.stack(before[-architectures.LAYERS :])[:, None] + tna.attribute_mlp_neurons(each))
    before = torch.stack(before).unflatten(0, (len(answers), -1))
    expected = torch.stack(after).logsumexp(0) - before.logsumexp(0)[:, None]
    torch.testing.assert_close(tna.attribute_mlp_neurons(q), expected, atol=1e-9, rtol=0)
    assert_searches_find_the_best(q, expected)


def test_a_set_of_tokens_may_be_the_target_of_a_cache_of_prompts(llama):
    prompts = architectures.prompts(2, 5)
    logits, cache = llama.run_with_cache(prompts)
    either = tna.any_of("w5", "w7", 9)
    summed = logits[:, -1].detach().double().softmax(-1)[:, [5, 7, 9]].sum(-1).log()
    torch.testing.assert_close(tna.scored(cache, either).log_prob, summed, atol=SINGLE, rtol=0)
    layers = tna.attribute_layers(cache, either)
    start = oracle.log_probs(cache, 0, 4, cache["blocks.0.hook_resid_pre"][0, 4].double())[[5, 7, 9]].logsumexp(0)
    torch.testing.assert_close((layers.attn + layers.mlp).sum(-1)[0] + start.detach(), summed[0], atol=SINGLE, rtol=0)


def test_one_right_answer_alone_is_that_answer(llama):
    _, cache = llama.run_with_cache(architectures.prompts(2, 5))
    torch.testing.assert_close(
        tna.attribute_heads(cache, tna.any_of("w5")), tna.attribute_heads(cache, "w5"), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(
    ("prompt", "answer", "error", "message"),
    [
        ("", "w5", ValueError, "prompt is empty"),
        ("w1", "", ValueError, "answer is empty"),
        ("w1", torch.tensor([], dtype=torch.long), ValueError, "answer is empty"),
        ("w1", torch.tensor([97]), IndexError, "answer must hold token ids between 0 and 96, got 97"),
        ("w1", "w5 nonsense", ValueError, "is not in the model's vocabulary"),
        ("w1 " * 60, "w1 w2 w3 w4", ValueError, r"prompt and answer are 61 \+ 4 tokens, the model's context 64"),
        ([], "w1", ValueError, "prompt is empty"),
        (["w1", "w2"], ["w3"], ValueError, "answer must be one for all prompts or one for each of the 2, got 1"),
        ("w1", tna.any_of("w5", "w5"), ValueError, "answer overlaps: 'w5' begins with 'w5'"),
        ("w1", tna.any_of("w5 w6", "w5"), ValueError, "answer overlaps: 'w5 w6' begins with 'w5'"),
    ],
)
def test_what_is_no_prompt_or_no_answer_is_refused(llama, prompt, answer, error, message):
    with pytest.raises(error, match=message):
        tna.answer(llama, prompt, answer)


def test_a_prompt_that_begins_with_two_bos_is_warned_about(llama):
    bos = llama.tokenizer.bos_token_id
    with pytest.warns(UserWarning, match="tokens begin with '<bos>' twice"):
        tna.answer(llama, torch.tensor([bos, bos, 1]), "w5")


def test_per_token_is_of_one_answer(llama):
    q = tna.answer(llama, "w1", tna.any_of("w5", "w6"))
    with pytest.raises(ValueError, match="per_token is of one answer per prompt"):
        _ = q.per_token
    _, cache = llama.run_with_cache(architectures.prompts(1, 5))
    with pytest.raises(ValueError, match="were not found for an answer"):
        _ = tna.value_neurons(cache, 5, k=2)[0].per_token
