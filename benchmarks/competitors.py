"""What one would use instead of an SRNN: each reads ``[batch, step, feature]`` and returns one state a sequence."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 8


class Library(nn.Module):
    """``nn.GRU`` or ``nn.LSTM``, read at its last state."""

    def __init__(self, kind: type[nn.RNNBase], input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.rnn = kind(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        final = self.rnn(x)[1]
        return (final[0] if isinstance(final, tuple) else final)[-1]


class Mean(Library):
    """Return the same, read at the mean of its states, which shortens the way back to early steps."""

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0].mean(1)


class MinGRU(nn.Module):
    """minGRU (Feng et al. 2024): gate and candidate see the input only, so that the states are a parallel scan."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, 2 * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gate, candidate = self.linear(x).chunk(2, dim=-1)
        gate = gate.sigmoid()
        return scan(1 - gate, gate * candidate)[:, -1]


class QRNN(nn.Module):
    """QRNN (Bradbury et al. 2017) of width 2 with fo-pooling, the pooling as a parallel scan."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(input_size, 3 * hidden_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        candidate, forget, output = self.conv(F.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2).chunk(3, dim=-1)
        forget = forget.sigmoid()
        return output[:, -1].sigmoid() * scan(forget, (1 - forget) * candidate.tanh())[:, -1]


def scan(a: Tensor, b: Tensor) -> Tensor:
    """Return all states of ``h_t = a_t h_(t-1) + b_t`` from zero, over dimension 1, in work proportional to the steps.

    Blocks of steps are scanned side by side, their last states in turn, and what a block starts from is added.
    """
    batch, T, size = b.shape
    if T <= BLOCK:
        return torch.stack(_scan_steps(a, b)[1], dim=1)
    missing = -T % BLOCK
    blocks = [F.pad(t, (0, 0, 0, missing)).reshape(-1, BLOCK, size) for t in (a, b)]
    decays, states = (torch.stack(t, dim=1).reshape(batch, -1, BLOCK, size) for t in _scan_steps(*blocks))
    ends = scan(decays[:, :, -1], states[:, :, -1])
    starts = F.pad(ends[:, :-1], (0, 0, 1, 0))
    return (states + decays * starts[:, :, None]).flatten(1, 2)[:, :T]


def _scan_steps(a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the products of ``a`` and the states up to each step, one step after another."""
    decays, states = [a[:, 0]], [b[:, 0]]
    for decay, add in zip(a.unbind(1)[1:], b.unbind(1)[1:], strict=True):
        states.append(torch.addcmul(add, decay, states[-1]))
        decays.append(decay * decays[-1])
    return decays, states


class DCCNN(nn.Module):
    """The paper's dilated causal CNN: dilations 1, 2, 4 .. until the last position sees all T steps, ReLU.

    The paper gives no kernel size; 2 makes its dilations (1 to 256 for T = 512) see exactly T steps.
    """

    def __init__(self, input_size: int, filters: int, T: int) -> None:
        super().__init__()
        dilations = [2**i for i in range(max(1, math.ceil(math.log2(T))))]
        self.layers = nn.ModuleList(
            nn.Conv1d(input_size if d == 1 else filters, filters, 2, dilation=d) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = layer(F.pad(x, (layer.dilation[0], 0))).relu()
        return x[:, :, -1]


class Transformer(nn.Module):
    """One encoder layer of four heads over a linear map of the input, sinusoidal positions, averaged over the steps."""

    def __init__(self, input_size: int, d_model: int) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, d_model)
        self.layer = nn.TransformerEncoderLayer(d_model, 4, 4 * d_model, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.layer(x + positions(x.shape[1], x.shape[2]).to(x)).mean(1)


def positions(T: int, d_model: int) -> Tensor:
    """Return sines and cosines of the step at ``d_model`` wavelengths."""
    angles = torch.arange(T)[:, None] * torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000) / d_model))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def matched(build: Callable[[int], nn.Module], budget: int, *, multiple: int = 1) -> tuple[nn.Module, int]:
    """Return the widest of the models ``build`` makes that has no more than ``budget`` parameters, and its width."""
    width = multiple
    while parameters(build(width + multiple)) <= budget:
        width += multiple
    return build(width), width


def parameters(model: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(p.numel() for p in model.parameters())
