"""The rotation of queries and keys, against complex numbers; the rest is tested with the towers."""

from types import SimpleNamespace

import pytest
import torch
from transformer_lens import ActivationCache

from tl_neuron_attr.model import attention_scores
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.stream import Stream


@pytest.mark.parametrize("interleaved", [False, True])
def test_planes_turn_by_their_angles(interleaved):
    """Two planes turn, the last two dimensions stay; cosines are cached once for both prompts."""
    angles = torch.rand(1, 5, 2, dtype=torch.float64) * 6
    doubled = angles.repeat_interleave(2, -1) if interleaved else torch.cat((angles, angles), -1)
    held = {"blocks.0.attn.hook_cos": doubled.cos(), "blocks.0.attn.hook_sin": doubled.sin()}
    held["blocks.0.hook_resid_pre"] = torch.zeros(2, 5, 3, dtype=torch.float64)
    cfg = SimpleNamespace(n_layers=1, rotary_interleaved_cos_sin=interleaved)
    stream = Stream(ActivationCache(held, model=SimpleNamespace(cfg=cfg)))
    places = Positions(torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2]))
    vectors = torch.randn(7, 3, 6, dtype=torch.float64)
    planes = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    expected = vectors.clone()
    for i, (a, b) in enumerate(planes):
        turn = torch.polar(torch.ones(3, dtype=torch.float64), angles[0, places.pos, i])
        moved = torch.complex(vectors[..., a], vectors[..., b]) * turn
        expected[..., a], expected[..., b] = moved.real, moved.imag
    torch.testing.assert_close(attention_scores.rotated(stream, 0, vectors, places), expected)
