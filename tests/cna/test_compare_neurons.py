"""Comparison of two runs against a float64 loop that reads both out with the first run's norm."""

import sys

import pytest
import torch
from tokenizers import Tokenizer, models
from tqdm import tqdm
from transformer_lens import ActivationCache
from transformers import PreTrainedTokenizerFast

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.cna import compare_neurons

HEAD, TARGET = (1, 2), 5
TOKENS = architectures.prompts()


@torch.no_grad()
def zeroed(name: str, **options: object) -> tuple[ActivationCache, ActivationCache]:
    model = architectures.build(name, **options)
    _, cache = model.run_with_cache(TOKENS)
    with tna.ablate(model, [HEAD]):
        _, other = model.run_with_cache(TOKENS)
    return cache, other


def increases(cache: ActivationCache, run: ActivationCache, site: str, row: int, pos: int, target: int) -> torch.Tensor:
    """``run``'s neurons, from ``run``'s streams, read out as ``cache`` was."""
    layers = []
    for layer in range(cache.model.cfg.n_layers):
        base, writes = oracle.base(run, layer, site, row, pos), oracle.writes(run, layer, site, row, pos)
        before, after = (oracle.log_probs(cache, row, pos, resid)[..., target] for resid in (base, base + writes))
        layers.append(after - before)
    return torch.stack(layers)


@torch.no_grad()
@pytest.mark.parametrize(
    "name, compat",
    [(name, False) for name in architectures.DENSE] + [(name, True) for name in ("gpt2", "llama", "gemma2", "cohere")],
)
def test_both_runs_are_read_out_as_the_first(name, compat):
    cache, other = zeroed(name, compat=compat)
    found = compare_neurons(cache, other, TARGET)
    for row in range(2):
        for mine, run in ((found.increase, cache), (found.other_increase, other)):
            expected = increases(cache, run, "mlp", row, 6, TARGET)
            torch.testing.assert_close(mine[row].double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.change, found.increase - found.other_increase)
    assert torch.equal(found.coefficient[:, 1], cache["blocks.1.mlp.hook_post"][:, -1])
    assert torch.equal(found.other_coefficient[:, 2], other["blocks.2.mlp.hook_post"][:, -1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox_parallel", "bloom"])
def test_attention_neurons_of_a_position_and_a_target_each(name):
    cache, other = zeroed(name)
    pos, target = torch.tensor([4, 6]), torch.tensor([3, 9])
    found = compare_neurons(cache, other, target, site="attn", pos=pos)
    for row in range(2):
        expected = increases(cache, other, "attn", row, int(pos[row]), int(target[row]))
        expected[HEAD] = 0  # pattern and v do not show that the head was zeroed
        torch.testing.assert_close(found.other_increase[row].double(), expected, atol=1e-6, rtol=1e-5)
    by_head = found.change.abs().amax((0, 3, 4))
    assert by_head[0].max() == 0 < by_head[HEAD], "what lies below the head is unchanged"


@torch.no_grad()
def test_the_last_layers_change_is_what_zeroing_a_neuron_took():
    """Other run: one neuron of the last layer zeroed. Its change is its score, everything else is unchanged."""
    model = architectures.build("llama")
    _, cache = model.run_with_cache(TOKENS)
    with tna.ablate(model, [("mlp", 2, 7)]):
        _, other = model.run_with_cache(TOKENS)
    found = compare_neurons(cache, other, TARGET)
    expected = torch.zeros_like(found.change)
    expected[:, 2, 7] = tna.attribute_mlp_neurons(cache, TARGET)[:, 2, 7]
    torch.testing.assert_close(found.change, expected, atol=1e-12, rtol=0)


def test_a_run_compared_with_itself_has_not_changed():
    cache, _ = zeroed("gpt2")
    found = compare_neurons(cache, cache, TARGET, contrast=7)
    assert float(found.change.abs().max()) == 0
    torch.testing.assert_close(found.increase, tna.attribute_mlp_neurons(cache, TARGET, contrast=7))


def test_one_prompt_without_a_batch_dimension():
    cache, other = zeroed("llama")
    together = compare_neurons(cache, other, TARGET)
    model = cache.model
    _, one = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    with tna.ablate(model, [HEAD]):
        _, without = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    alone = compare_neurons(one, without, TARGET)
    torch.testing.assert_close(alone.change, together.change[0], atol=1e-9, rtol=1e-9)
    assert not alone.top(3).batched and alone.united(3).labels == alone.top(3).labels


def test_another_model_may_be_compared():
    one, two = (architectures.build("gpt2", seed=seed) for seed in (0, 1))
    cache, other = (model.run_with_cache(TOKENS)[1] for model in (one, two))
    found = compare_neurons(cache, other, TARGET)
    torch.testing.assert_close(found.other_increase[1], increases(cache, other, "mlp", 1, 6, TARGET))


@pytest.mark.parametrize(
    "name, tokens, message",
    [
        ("llama_head_dim", TOKENS, None),
        ("gpt2", TOKENS[:, :5], "tokens per prompt: 7 in cache, 5 in other"),
        ("gpt2", TOKENS[:1], "prompts: 2 in cache, 1 in other"),
        ("bloom", TOKENS, r"MLP neurons by layer: \[80, 80, 80\] in cache, \[128, 128, 128\] in other"),
    ],
)
def test_runs_that_do_not_correspond_are_named(name, tokens, message):
    cache, _ = zeroed("llama")
    _, other = architectures.build(name).run_with_cache(tokens)
    if message is None:  # the same MLPs behind other heads: comparable by MLP neurons only
        compare_neurons(cache, other, TARGET)
        with pytest.raises(ValueError, match=r"head dimensions by layer: \[\(4, 8\), .* in cache, \[\(4, 16\)"):
            compare_neurons(cache, other, TARGET, site="attn")
        return
    with pytest.raises(ValueError, match=message):
        compare_neurons(cache, other, TARGET)


def test_a_cache_of_other_depth_is_named():
    cache, other = zeroed("gpt2")
    shallow = architectures.build("gpt2")
    shallow.cfg.n_layers = 2
    with pytest.raises(ValueError, match="model did not make this cache: it has 2 layers"):
        compare_neurons(cache, other, TARGET, other_model=shallow)


def test_a_token_the_two_tokenizers_do_not_share_is_named():
    cache, other = zeroed("gpt2")
    stranger = architectures.build("gpt2")
    stranger.tokenizer = renamed()
    with pytest.raises(ValueError, match="target 5 is 'w5' to cache's tokenizer and 'x5' to other's"):
        compare_neurons(cache, other, TARGET, other_model=stranger)
    with pytest.raises(ValueError, match="contrast 4 is 'w4'"):
        compare_neurons(cache, other, 0, contrast=4, other_model=stranger)


def renamed() -> PreTrainedTokenizerFast:
    """A tokenizer that knows ``w0`` and calls everything else ``x``."""
    words = {"w0": 0} | {f"x{i}": i for i in range(1, architectures.VOCAB)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))


def test_bad_arguments_are_named():
    cache, other = zeroed("gpt2")
    with pytest.raises(IndexError, match="pos must lie between -7 and 6"):
        compare_neurons(cache, other, TARGET, pos=7)
    _, short = architectures.build("gpt2").run_with_cache(TOKENS, names_filter=lambda name: "mlp" not in name)
    with pytest.raises(ValueError, match=r"cache lacks blocks\.0\.hook_mlp_out"):
        compare_neurons(cache, short, TARGET)


def test_an_answer_is_compared_token_by_token():
    model = architectures.build("llama")
    q = tna.answer(model, architectures.prompts(1, 4)[0], tna.Answer((5, 17, 5)))
    with tna.ablate(model, [(1, 2)]):
        _, other = model.run_with_cache(q.stream.tokens())
    found = tna.compare_neurons(q, other)
    each = [tna.compare_neurons(q.stream.cache, other, token, pos=3 + i) for i, token in enumerate(q.target.tolist())]
    for name in ("increase", "other_increase", "change"):
        expected = sum(getattr(one, name)[0] for one in each)
        torch.testing.assert_close(getattr(found, name), expected, atol=1e-9, rtol=0)
    strongest = torch.stack([one.increase[0].abs() for one in each]).argmax(0, keepdim=True)
    coefficients = torch.stack([one.coefficient[0] for one in each])
    assert torch.equal(found.coefficient, coefficients.gather(0, strongest)[0])


def test_a_run_without_the_answer_and_several_answers_are_refused():
    model = architectures.build("llama")
    prompt = architectures.prompts(1, 4)[0]
    q = tna.answer(model, prompt, tna.Answer((5, 17, 5)))
    _, other = model.run_with_cache(torch.cat([prompt, torch.tensor([6, 17, 5])])[None])
    with pytest.raises(ValueError, match="other does not hold the answer where cache does"):
        tna.compare_neurons(q, other)
    with pytest.raises(ValueError, match="this target is several right answers"):
        tna.compare_neurons(tna.answer(model, prompt, tna.any_of("w5", "w6")), other)


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_counts_the_layers_of_both_runs(monkeypatch, capsys, progress):
    module = sys.modules["tl_neuron_attr.cna.compare_neurons"]  # the package holds the function by this name
    monkeypatch.setattr(module, "tqdm", lambda *values, **options: tqdm(*values, **{**options, "delay": 0}))
    _, cache = architectures.run("llama", batch=1)
    compare_neurons(cache, cache, 5, progress=progress)
    layers = 2 * architectures.LAYERS
    assert (f"{layers}/{layers}" in capsys.readouterr().err) == progress
