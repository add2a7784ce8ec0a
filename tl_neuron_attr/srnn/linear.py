"""The theorem of the paper's section 3.4: sliced, a linear recurrence computes what it computes unsliced.

A linear RNN ``h_t = W x_t + U h_(t-1) + b`` ends in ``h_T = U^T h_0 + sum_t U^(T-t) (W x_t + b)`` (Eq. 26). Slice it
with slices of ``l_p`` inputs on level p, and let level 0 have ``W``, ``U`` and ``b``, level p >= 1 the input weights
I, no bias and

    U_p = U^(l_0 l_1 ... l_(p-1))                                                                               (Eq. 31)

A state of level p is then what the linear RNN would reach from zero over the steps below it: it sums the states
``h_i`` of its ``l_p`` slices as ``sum_i U_p^(l_p - i) h_i``, and ``U_p`` is ``U`` to the power of the steps that one
of them stands for. ``h_0`` starts the top level: ``U_k^(l_k) h_0 = U^T h_0``. The paper has T = n^(k+1), b = 0 and h_0
= 0; the rest is ours.
"""

from collections.abc import Sequence
from typing import cast

import torch

from tl_neuron_attr.srnn.cells import LinearRNN
from tl_neuron_attr.srnn.inputs import require_divisible
from tl_neuron_attr.srnn.module import SRNN
from tl_neuron_attr.srnn.slicing import Slicing, as_factors, require_integer


@torch.no_grad()
def from_linear_rnn(rnn: LinearRNN, n: int | Sequence[int], k: int | None, T: int) -> SRNN:
    """The SRNN whose last state is that of ``rnn`` after T steps, up to rounding (Eq. 31).

    It is equal for inputs of T steps, and of any other number that fills the slices below the top level; with a start
    ``h_0`` as well. Weights are copied, not shared.

    Args:
        rnn: A linear RNN of one layer and one direction.
        n: The factor, or one a level from the bottom up.
        k: How often to cut; None where ``n`` is a list.
        T: Steps of a sequence, a multiple of ``n^k``.

    Raises:
        TypeError: If ``rnn`` is no :class:`LinearRNN`; another recurrence has no such equal.
        ValueError: If ``rnn`` has more than one layer or direction, or ``T`` is not a multiple of ``n^k``.

    Examples:
        >>> rnn = LinearRNN(3, 4, dtype=torch.float64)
        >>> srnn = from_linear_rnn(rnn, n=4, k=2, T=48)
        >>> x = torch.randn(2, 48, 3, dtype=torch.float64)
        >>> torch.allclose(srnn(x)[0], rnn(x)[1][0], rtol=1e-12)
        True
    """
    if not isinstance(rnn, LinearRNN):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"rnn must be a LinearRNN, got {type(rnn).__name__}: the theorem holds for linear recurrences only"
        )
    if rnn.num_layers > 1 or rnn.bidirectional:
        raise ValueError(f"rnn must have one layer and one direction, got {rnn.num_layers} x {rnn.directions}")
    factors = as_factors(n, k)
    require_integer("T", T, at_least=1)
    require_divisible("T", T, factors)
    slices, slice_len = Slicing(factors).levels(T)[0]
    weight_ih, weight_hh, bias = rnn.weights()
    srnn = SRNN(
        rnn.input_size,
        rnn.hidden_size,
        n=factors,
        cell=LinearRNN,
        slice_len=slice_len if slices > 1 else None,
        bias=rnn.bias,
        device=weight_ih.device,
        dtype=weight_ih.dtype,
    )
    power = 1
    for p, (level, length) in enumerate(zip(srnn.levels, (slice_len, *factors), strict=True)):
        w, u, b = cast(LinearRNN, level.cell).weights()
        if p == 0:
            w.copy_(weight_ih)
        else:
            torch.nn.init.eye_(w)
        u.copy_(torch.linalg.matrix_power(weight_hh, power))
        if b is not None and bias is not None:
            b.copy_(bias if p == 0 else torch.zeros_like(bias))
        power *= length
    return srnn
