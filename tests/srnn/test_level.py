import pytest
import torch
from torch import nn

from tl_neuron_attr.srnn import SRNN, KerasGRU
from tl_neuron_attr.srnn.level import Level


def gru():
    return nn.GRU(3, 4, batch_first=True, dtype=torch.float64)


@pytest.mark.parametrize("make", [gru, lambda: nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)])
@pytest.mark.parametrize("rows", [5, 1200])
@pytest.mark.parametrize("ragged", [False, True])
def test_every_engine_gives_the_same(make, rows, ragged):
    torch.manual_seed(0)
    level, x = Level(make()), torch.randn(rows, 6, 3, dtype=torch.float64)
    steps = torch.randint(1, 7, (rows,)) if ragged else None
    level.engine = "library"
    expected = level(x, None, steps)
    for engine in ("chunked", "auto", *(["fused"] if level.has_fused else [])):
        level.engine = engine
        torch.testing.assert_close(level(x, None, steps), expected, rtol=0, atol=1e-13)


def calls(level, x):
    """How many rows each call of the cell gets; none if the level runs without it."""
    rows = []
    handle = level.cell.register_forward_pre_hook(lambda cell, args: rows.append(len(args[0])))
    level(x)
    handle.remove()
    return rows


@pytest.mark.parametrize(
    ("make", "rows", "grad", "expected"),
    [
        (gru, 5, True, []),
        (gru, 5, False, [5]),
        (gru, 64, False, []),
        (lambda: KerasGRU(3, 4, dtype=torch.float64), 64, False, []),
        (lambda: nn.LSTM(3, 4, batch_first=True, dtype=torch.float64), 1000, True, [1000]),
        (lambda: nn.LSTM(3, 4, batch_first=True, dtype=torch.float64), 1100, True, [512, 512, 76]),
        (lambda: nn.LSTM(3, 4, batch_first=True, dtype=torch.float64), 1023, True, [1023]),
        (lambda: nn.LSTM(3, 4, batch_first=True, dtype=torch.float64), 1024, True, [512, 512]),
        (lambda: nn.GRU(3, 4, num_layers=2, batch_first=True, dtype=torch.float64), 5, True, [5]),
    ],
)
def test_the_engine_is_chosen_by_the_cell_the_rows_and_the_gradient(make, rows, grad, expected):
    with torch.set_grad_enabled(grad):
        assert calls(Level(make()), torch.randn(rows, 2, 3, dtype=torch.float64)) == expected


def test_a_parametrised_cell_is_called():
    """Its type is no longer torch's, and what its parameters stand for is its own business."""
    cell = nn.utils.parametrizations.weight_norm(gru(), "weight_hh_l0")
    assert calls(Level(cell), torch.randn(5, 2, 3, dtype=torch.float64)) == [5]


def test_a_level_s_hook_sees_the_slices_and_their_states_with_every_engine():
    srnn = SRNN(3, 4, n=2, k=1)
    for engine in ("library", "fused", "chunked"):
        seen = []
        srnn.levels[0].engine = engine
        srnn.levels[0].register_forward_hook(lambda level, args, state, seen=seen: seen.append((args[0], state)))
        _, states = srnn(torch.randn(2, 6, 3))
        slices, state = seen[0]
        assert slices.shape == (4, 3, 3)
        assert torch.equal(state.unflatten(0, (2, 2)), states[0])


def test_slices_cut_short_end_at_their_last_step_in_both_directions():
    torch.manual_seed(0)
    cell = nn.GRU(3, 4, batch_first=True, bidirectional=True, dtype=torch.float64)
    level, x, steps = Level(cell, bidirectional=True), torch.randn(3, 6, 3, dtype=torch.float64), [2, 6, 4]
    found = level(x, None, torch.tensor(steps))
    for i, n in enumerate(steps):
        torch.testing.assert_close(found[i : i + 1], level(x[i : i + 1, :n]), rtol=0, atol=1e-13)


@pytest.mark.usefixtures("as_installed")
def test_engines_are_checked():
    with pytest.raises(ValueError, match=r"engine must be one of 'auto', .* got 'fast'"):
        Level(gru(), engine="fast")
    with pytest.raises(ValueError, match="one layer and direction of GRU, KerasGRU"):
        Level(nn.LSTM(3, 4), engine="fused")
    with pytest.raises(ValueError, match="one layer and direction"):
        Level(nn.GRU(3, 4, bidirectional=True), bidirectional=True, engine="fused")
