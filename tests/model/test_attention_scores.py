"""Scores by the formula against the model's own, on every architecture that shows them; rotation by complex numbers."""

from types import SimpleNamespace

import pytest
import torch
from transformer_lens import ActivationCache

from tests import architectures
from tl_neuron_attr.model import attention_scores
from tl_neuron_attr.model.attention_scores import AttentionScore, agrees
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream

HIDDEN = ("opt", "gptj", "gpt_neo")
SHOWN = [name for name in architectures.BUILDERS if name not in HIDDEN]


@torch.no_grad()
@pytest.mark.parametrize("name", SHOWN)
def test_the_formula_gives_the_models_scores(name):
    """Of every position attended to from the last one, in every head: queries and keys, rotated, scaled and capped."""
    _, cache = architectures.run(name, dtype=torch.float32)
    stream, layer = Stream(cache), 1
    score = AttentionScore.of(stream.model, layer)
    length = stream.shape[1]
    row = torch.arange(2).repeat_interleave(length)
    every = Positions(row, torch.arange(length).repeat(2))
    for head in range(architectures.HEADS):
        q = attention_scores.cached_vector(stream, "q", layer, head, stream.last)
        k = attention_scores.cached_vector(stream, "k", layer, head, every).unflatten(0, (2, length))
        product = score.products(q[:, None, None], k[:, None])[:, 0, 0]
        slope = 0 if score.slopes is None else score.slopes[head]
        own = attention_scores.cached_scores(stream, layer)[:, head, -1]
        seen = own > torch.finfo(own.dtype).min / 2
        found = score.capped(product + slope * torch.arange(length))
        torch.testing.assert_close(found[seen], own[seen], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "olmo2", "cohere"])
@pytest.mark.parametrize("side", ["q", "k"])
def test_components_of_queries_and_keys_add_up_to_the_cached_ones(name, side):
    """Through the norm of queries and keys where there is one: by head in Qwen 3, one for all heads in OLMo 2."""
    _, cache = architectures.run(name)
    stream, layer, head = Stream(cache), 1, 3
    first, read = (cache[f"blocks.{la}.hook_resid_pre"][:, -1].double() for la in (0, layer))
    parts = attention_scores.project(stream, side, layer, head, stream.last, torch.stack([first, read - first]))
    cached = attention_scores.cached_vector(stream, side, layer, head, stream.last)
    torch.testing.assert_close(parts.sum(0), cached.double(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["scaling", "inv_norm_factor", None])
def test_the_scale_is_the_modules_own_whatever_it_calls_it_or_one_by_the_root_of_the_heads_size(name):
    model = architectures.build("llama_head_dim")
    own = model.blocks[0].attn.original_component
    del own.scaling
    if name:
        setattr(own, name, 0.3)
    assert AttentionScore.of(model, 0).scale == (0.3 if name else model.blocks[0].attn.W_O.shape[1] ** -0.5)


def test_a_cap_bounds_scores_and_keys_may_be_shared():
    score = AttentionScore(scale=0.5, cap=2.0, slopes=None)
    q, k = torch.randn(1, 4, 3, 6, dtype=torch.float64), torch.randn(1, 2, 5, 6, dtype=torch.float64)
    products = score.products(q, k)
    for head in range(4):
        torch.testing.assert_close(products[0, head], 0.5 * q[0, head] @ k[0, head // 2].T)
    torch.testing.assert_close(score.capped(products), 2 * (products / 2).tanh())
    assert torch.equal(AttentionScore(0.5, None, None).capped(products), products)


@pytest.mark.parametrize("dtype, allowed", [(torch.float64, 1e-6), (torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_scores_agree_within_the_rounding_of_what_was_added(dtype, allowed):
    size = torch.tensor([0.0, 3.0])
    assert agrees(torch.tensor([0.0, -3.9 * allowed]), size, dtype)
    assert not agrees(torch.tensor([0.0, -4.1 * allowed]), size, dtype)
    assert not agrees(torch.tensor([torch.nan]), size, dtype)


def stream_of_nothing(dtype=torch.float64):
    held = {"blocks.0.hook_resid_pre": torch.zeros(2, 5, 3, dtype=dtype)}
    return Stream(ActivationCache(held, model=SimpleNamespace(cfg=SimpleNamespace(n_layers=1))))


def test_a_formula_that_is_off_is_refused_with_how_far_and_one_that_is_not_is_not():
    stream, score = stream_of_nothing(), torch.tensor([1.0, -2.0], dtype=torch.float64)
    product = score.abs()
    attention_scores.require_formula(stream, product, score + 2e-6, score)
    with pytest.raises(ValueError, match=r"makes its attention scores in another way: .* off by 0.0001;"):
        attention_scores.require_formula(stream, product, score - 1e-4, score)


def test_parts_that_are_not_the_cached_vector_are_refused():
    stream, vector = stream_of_nothing(), torch.randn(2, 4, dtype=torch.float64)
    parts = torch.stack([vector - 1, torch.ones_like(vector)])
    attention_scores.require_projection(stream, parts, vector, "q", 3)
    for side, name in (("q", "queries"), ("k", "keys")):
        with pytest.raises(ValueError, match=f"weights do not give the cached {name} of layer 3.* an adapter is"):
            attention_scores.require_projection(stream, parts * 1.01, vector, side, 3)


@pytest.mark.parametrize("interleaved", [False, True])
def test_planes_are_rotated_by_their_angles(interleaved):
    """Two planes are rotated, the last two dimensions stay; cosines are cached once for both prompts."""
    angles = torch.rand(1, 5, 2, dtype=torch.float64) * 6
    doubled = angles.repeat_interleave(2, -1) if interleaved else torch.cat((angles, angles), -1)
    held = {"blocks.0.attn.hook_cos": doubled.cos(), "blocks.0.attn.hook_sin": doubled.sin()}
    held["blocks.0.hook_resid_pre"] = torch.zeros(2, 5, 3, dtype=torch.float64)
    cfg = SimpleNamespace(n_layers=1, rotary_interleaved_cos_sin=interleaved)
    stream = Stream(ActivationCache(held, model=SimpleNamespace(cfg=cfg, W_U=torch.zeros(3, 1))))
    places = Positions(torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2]))
    vectors = torch.randn(7, 3, 6, dtype=torch.float64)
    planes = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    expected = vectors.clone()
    for i, (a, b) in enumerate(planes):
        turn = torch.polar(torch.ones(3, dtype=torch.float64), angles[0, places.pos, i])
        moved = torch.complex(vectors[..., a], vectors[..., b]) * turn
        expected[..., a], expected[..., b] = moved.real, moved.imag
    torch.testing.assert_close(attention_scores.rotated(stream, 0, vectors, places), expected)


@pytest.mark.parametrize("name", ["llama", "falcon", *HIDDEN])
def test_scores_that_are_the_pattern_itself_are_refused(name):
    stream = Stream(architectures.run(name)[1])
    if name not in HIDDEN:
        return attention_scores.require_scores(stream, 1)
    with pytest.raises(ValueError, match="this architecture hides its scores"):
        attention_scores.require_scores(stream, 1)
