"""The sliced network as the paper writes it: loops over slices and steps, one sequence at a time, torch's own cells."""

import torch
import torch.nn.functional as F


def gru(x, state, w, u, b_x, b_h):
    return torch.gru_cell(x, state, w, u, b_x, b_h)


def lstm(x, state, w, u, b_x, b_h):
    return torch.lstm_cell(x, state, w, u, b_x, b_h)


def rnn(x, state, w, u, b_x, b_h):
    return torch.rnn_tanh_cell(x, state, w, u, b_x, b_h)


def keras_gru(x, state, w, u, b):
    """Eq. 1-4 of the paper with f(x) = x, gate by gate."""
    (w_r, w_z, w_h), (u_r, u_z, u_h), (b_r, b_z, b_h) = (m.chunk(3) for m in (w, u, b))
    r = torch.sigmoid(F.linear(x, w_r, b_r) + F.linear(state, u_r))
    z = torch.sigmoid(F.linear(x, w_z, b_z) + F.linear(state, u_z))
    candidate = F.linear(x, w_h, b_h) + F.linear(r * state, u_h)
    return z * state + (1 - z) * candidate


def linear(x, state, w, u, b):
    """Eq. 24 with f(x) = x."""
    return F.linear(x, w, b) + F.linear(state, u)


CELLS = {"gru": gru, "lstm": lstm, "rnn": rnn, "keras_gru": keras_gru}


def parameters(cell, suffix):
    """A layer's weights and biases; zeros for biases it has not."""
    w, u = (getattr(cell, f"{name}{suffix}") for name in ("weight_ih", "weight_hh"))
    names = ("bias",) if hasattr(cell, f"bias{suffix}") else ("bias_ih", "bias_hh")
    biases = (getattr(cell, name + suffix, None) for name in names)
    return [w, u, *(w.new_zeros(len(w)) if b is None else b for b in biases)]


def last_state(step, cell, steps, start=None):
    """The last state of a stack of recurrences over a list of steps, both directions if the cell has two."""
    directions = ("", "_reverse") if cell.bidirectional else ("",)
    hidden = parameters(cell, "_l0")[1].shape[1]
    zero = steps[0].new_zeros(1, hidden)
    for layer in range(cell.num_layers):
        outputs, finals = [], []
        for d, direction in enumerate(directions):
            state = zero if start is None else start[layer * len(directions) + d][None]
            if step is lstm:
                state = (state, zero)
            states = []
            for x in reversed(steps) if direction else steps:
                state = step(x[None], state, *parameters(cell, f"_l{layer}{direction}"))
                states.append(state[0] if step is lstm else state)
            finals.append(states[-1])
            outputs.append(states[::-1] if direction else states)
        steps = [torch.cat(pair, dim=1)[0] for pair in zip(*outputs, strict=True)]
    return torch.cat(finals, dim=1)[0]


def srnn(step, cells, sequence, lengths, h_0=None):
    """The last states of every level's slices for one sequence; the top level reads all there is."""
    inputs, levels = list(sequence), []
    for p, cell in enumerate(cells):
        top = p == len(cells) - 1
        size = len(inputs) if top else lengths[p]
        slices = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        inputs = [last_state(step, cell, s, h_0 if top else None) for s in slices]
        levels.append(torch.stack(inputs))
    return levels
