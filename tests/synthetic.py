"""Random sublayers and readouts, no model behind them, and their brute-force scores."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.readout import Norm, Readout
from tl_neuron_attr.numerics.sublayer import Sublayer

seeds = st.integers(0, 2**31 - 1)
peaks = st.sampled_from([0.0, 0.3, 3.0, 30.0])
"""From a flat base distribution to one with all its mass on one token."""


def norm(g: torch.Generator, d: int, rows: int, centred: bool) -> Norm:
    weight = torch.randn(d, generator=g, dtype=torch.float64)
    return Norm(weight, torch.rand(rows, generator=g, dtype=torch.float64) + 0.5, centred)


def readout(g: torch.Generator, d: int, vocab: int, rows: int) -> Readout:
    W_U = torch.randn(d, vocab, generator=g, dtype=torch.float64)
    b_U = torch.randn(vocab, generator=g, dtype=torch.float64)
    norm_bias = torch.randn(d, generator=g, dtype=torch.float64)
    centred = bool(torch.rand(1, generator=g) < 0.5)
    multiplier = float(torch.rand(1, generator=g)) + 0.5
    return Readout(W_U, norm(g, d, rows, centred), norm_bias, b_U, multiplier)


def sublayer(
    g: torch.Generator, batch: int, d: int, site: str, layer: int, size: float, ties: bool, width: int = 0
) -> Sublayer:
    heads, sources = (2, 3) if site == "attn" else (1, 1)
    width = width or heads * int(torch.randint(1, 12, (1,), generator=g))
    directions = torch.randn(width, d, generator=g, dtype=torch.float64)
    coefficients = size * torch.randn(batch, width, sources, generator=g, dtype=torch.float64)
    coefficients *= torch.rand(coefficients.shape, generator=g) < 0.7  # a third of the neurons is silent
    if ties:
        directions[width // 2 :] = directions[: width - width // 2].clone()
        coefficients[:, width // 2 :] = coefficients[:, : width - width // 2].clone()
    zeros = torch.zeros(batch, d, dtype=torch.float64)
    return Sublayer(
        site=site,
        layer=layer,
        base=torch.randn(batch, d, generator=g, dtype=torch.float64),
        out=zeros,
        bias=zeros,
        directions=directions,
        coefficients=coefficients,
        heads=heads,
        post=norm(g, d, batch, True) if layer % 2 else None,
    )


def case(seed: int, *, batch: int = 2, peak: float = 1.0, size: float = 1.0, ties: bool = False):
    """Four sublayers, and the scores of what is added to the streams they read."""
    g = torch.Generator().manual_seed(seed)
    d, vocab = int(torch.randint(2, 10, (1,), generator=g)), int(torch.randint(3, 40, (1,), generator=g))
    subs = [sublayer(g, batch, d, site, layer, size, ties) for layer in range(2) for site in ("attn", "mlp")]
    target = torch.randint(0, vocab, (batch,), generator=g)
    whole = readout(g, d, vocab, batch)
    return [Increase(whole, peak * s.base, target) for s in subs], subs


def large_vocabulary() -> tuple[Increase, torch.Generator]:
    """Four base streams in float32, from flat to peaked, over 262,144 tokens whose vectors share a direction."""
    g = torch.Generator().manual_seed(0)
    d, vocabulary, rows = 64, 262_144, 4
    W_U = torch.randn(d, vocabulary, generator=g) / d**0.5 + 0.7 * torch.randn(d, 1, generator=g)
    plain = Norm(torch.ones(d), torch.ones(rows), centred=False)
    readout = Readout(W_U, plain, torch.zeros(d), torch.zeros(vocabulary))
    base = torch.tensor([0.0, 1.0, 3.0, 6.0])[:, None] * torch.randn(rows, d, generator=g) + W_U.mean(1)
    return Increase(readout, base, torch.randint(0, vocabulary, (rows,), generator=g)), g


def brute_force(increases: list[Increase], subs: list[Sublayer]) -> list[Tensor]:
    """The score of every neuron by two ``log_softmax`` of whole streams, ``[batch, neuron, source]`` per sublayer."""
    found = []
    for increase, sub in zip(increases, subs, strict=True):
        scores = torch.empty_like(sub.coefficients)
        for b in range(len(scores)):
            vectors = sub.directions[:, None] * sub.coefficients[b, :, :, None]
            if sub.post is not None:
                vectors = (vectors - vectors.mean(-1, keepdim=True)) * sub.post.weight / sub.post.scale[b]
            scores[b] = by_log_softmax(increase, b, vectors)
        found.append(scores)
    return found


def by_log_softmax(increase: Increase, row: int, vectors: Tensor) -> Tensor:
    """The score of vectors added to one base stream, by its definition in float64."""
    r = increase.readout

    def log_p(resid):
        centred = resid - resid.mean(-1, keepdim=True) if r.norm.centred else resid
        normed = centred * r.norm.weight.double() / r.norm.scale[row].double() + r.norm_bias.double()
        logits = (normed @ r.W_U.double() + r.b_U.double()) * r.multiplier
        found = (logits if r.transform is None else r.transform(logits)).log_softmax(-1)
        followed = found[..., increase.target[row]]
        return followed if increase.contrast is None else followed - found[..., increase.contrast[row]]

    base = increase.base[row].double()
    return log_p(base + vectors.double()) - log_p(base)
