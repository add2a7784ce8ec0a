"""The theorem of the paper's section 3.4: a linear recurrence gives the same last state sliced as unsliced.

A linear RNN (Eq. 24, with f(x) = x as in Eq. 25) has the input weights ``U`` and the recurrent weights ``W``:
``h_t = U x_t + W h_(t-1) + b``. Unrolled, it ends in (Eq. 26)

    h_T = W^T h_0 + sum_t W^(T-t) (U x_t + b)

Level p of a sliced linear RNN does the same to its ``l_p`` inputs with weights of its own (Eq. 27, Eq. 28, Eq. 29; the
network's last state is that of the top level, Eq. 30). The two are equal if (Eq. 31)

    U_0 = U        U_p = I for p >= 1        W_0 = W        W_p = W^(l_0 l_1 ... l_(p-1))

A state of level p is then what the linear RNN would reach from zero over the steps below it, the sum of
``W_p^(l_p - i) h_i`` over the states ``h_i`` of its slices, because ``W_p`` is ``W`` to the power of the number of
steps that one of them stands for. ``h_0`` starts the top level, where ``W_k^(l_k) h_0 = W^T h_0``.

The paper proves this for T = n^(k+1), b = 0 and h_0 = 0, where ``W_p = W^(n^p)``. Other lengths, one factor per level,
the bias (``b_0 = b``, ``b_p = 0``) and the start are derived here.
"""

from collections.abc import Sequence
from typing import cast

import torch

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.srnn.cells import LinearRNN
from tl_neuron_attr.srnn.inputs import require_divisible
from tl_neuron_attr.srnn.module import SRNN
from tl_neuron_attr.srnn.slicing import Slicing, as_factors, require_integer


@typechecked
@torch.no_grad()
def from_linear_rnn(rnn: LinearRNN, n: int | Sequence[int], k: int | None, T: int) -> SRNN:
    """Return the SRNN that ends in the same state as ``rnn`` after T steps, up to rounding (paper 4, Eq. 31).

    They also agree on inputs of any other length that fills the slices below the top level, and from any start
    ``h_0``. Weights are copied, not shared.

    Args:
        rnn: A linear RNN with one layer and one direction.
        n: The factor, or one factor per level from the bottom up.
        k: How often to cut; None if ``n`` is a list.
        T: The number of steps, a multiple of ``n^k``.

    Raises:
        TypeError: If ``rnn`` is not a :class:`LinearRNN`; no other recurrence has such an equal.
        ValueError: If ``rnn`` has more than one layer or direction, or ``T`` is not a multiple of ``n^k``.

    Examples:
        A recurrence that halves its state and adds the input, cut into two slices of two steps: level 1 reads states
        that are two steps apart, so it multiplies by a quarter.

        >>> rnn = LinearRNN(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = rnn.weight_ih_l0.fill_(1.0), rnn.weight_hh_l0.fill_(0.5)
        >>> srnn = from_linear_rnn(rnn, n=2, k=1, T=4)
        >>> [level.cell.weight_hh_l0.item() for level in srnn.levels]
        [0.5, 0.25]
        >>> x = torch.tensor([[[8.0], [4.0], [2.0], [1.0]]])
        >>> srnn(x)[0].item(), rnn(x)[1].item()
        (4.0, 4.0)
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
    U, W, b = rnn.weights()
    srnn = SRNN(
        rnn.input_size,
        rnn.hidden_size,
        n=factors,
        cell=LinearRNN,
        slice_len=slice_len if slices > 1 else None,
        bias=rnn.bias,
        device=U.device,
        dtype=U.dtype,
    )
    steps_per_input = 1
    for p, (level, length) in enumerate(zip(srnn.levels, (slice_len, *factors), strict=True)):
        U_p, W_p, b_p = cast(LinearRNN, level.cell).weights()
        if p == 0:
            U_p.copy_(U)
        else:
            torch.nn.init.eye_(U_p)
        W_p.copy_(torch.linalg.matrix_power(W, steps_per_input))
        if b_p is not None and b is not None:
            b_p.copy_(b if p == 0 else torch.zeros_like(b))
        steps_per_input *= length
    return srnn
