"""How a sequence is cut (paper 4, section 3.1), and how much time cutting saves (section 3.3).

A sequence X of T steps (Eq. 6) is cut into n slices (Eq. 8) of T / n steps (Eq. 7): slice p holds the steps from
``(p - 1) T / n + 1`` to ``p T / n`` (Eq. 9). Each slice is cut again in the same way, k times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked


@dataclass(frozen=True)
class Slicing:
    """The factors by which a sequence is cut, from the bottom up.

    Attributes:
        factors: The number of states of level p - 1 in a slice of level p, for p = 1..k; in the paper all are n.
        slice_len: The number of steps in a slice of level 0; None to derive it from T.

    Examples:
        >>> Slicing((8, 8)).levels(512)
        ((64, 8), (8, 8), (1, 8))
        >>> Slicing((8, 8), slice_len=10).levels(512)
        ((52, 10), (7, 8), (1, 7))
    """

    factors: tuple[int, ...]
    slice_len: int | None = None

    @property
    def k(self) -> int:
        """Return how often the sequence is cut; there are k + 1 levels."""
        return len(self.factors)

    @property
    def minimum_slices(self) -> int:
        """Return ``s_0 = n^k``, the number of slices on level 0 (Eq. 11)."""
        return prod(self.factors)

    def levels(self, T: int) -> tuple[tuple[int, int], ...]:
        """Return each level's number of slices ``s_p`` and the length of a slice ``l_p``, for p = 0..k.

        ``l_0 = T / n^k`` (Eq. 10) unless ``slice_len`` is set, ``s_0 = n^k`` (Eq. 11), ``s_p = n^(k-p)`` (Eq. 12) and
        ``l_p = n`` (Eq. 13). If T does not fill the slices, the last slice of a level is shorter, and the single slice
        of the top level reads the states there are.
        """
        sizes: list[tuple[int, int]] = []
        steps = T
        for length in (self.slice_len or T // self.minimum_slices, *self.factors)[: self.k]:
            slices = ceil_div(steps, length)
            sizes.append((slices, length))
            steps = slices
        return (*sizes, (1, steps))


def as_factors(n: int | Sequence[int], k: int | None) -> tuple[int, ...]:
    """Return one factor per level; ``k`` defaults to 2 for an integer ``n`` and to the length of a list.

    Raises:
        TypeError: If ``k`` is not an integer, or ``n`` is neither an integer nor a list of integers.
        ValueError: If a factor is less than 2, ``k`` is negative, or ``k`` contradicts a list.

    Examples:
        >>> as_factors(8, 2), as_factors([8, 4, 2], None), as_factors(8, 0)
        ((8, 8), (8, 4, 2), ())
    """
    if k is not None:
        require_integer("k", k, at_least=0)
    if isinstance(n, int):
        factors = (n,) * (2 if k is None else k)
        require_integer("n", n, at_least=2)
    elif isinstance(n, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        factors = tuple(n)
        if k is not None and k != len(factors):
            raise ValueError(f"k={k} contradicts n={list(n)}, which cuts {len(factors)} times: leave k out")
    else:
        raise TypeError(f"n must be an integer or a list of integers, got {n!r}")
    for factor in factors:
        require_integer("n", factor, at_least=2)
    return factors


def require_integer(name: str, value: object, *, at_least: int) -> None:
    """Check that ``value`` is an integer of at least ``at_least``.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If it is less than ``at_least``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up.

    Examples:
        >>> ceil_div(9, 8), ceil_div(8, 8)
        (2, 1)
    """
    return (a + b - 1) // b


@typechecked
def sequential_steps(T: int, factors: Sequence[int]) -> int:
    """Return the number of steps that must run one after another: ``n k + T / n^k``, T / n^k rounded up.

    This is the sliced network's time (Eq. 22) in units of one step: ``T / n^k`` steps on level 0 (Eq. 20) and n on each
    of the k levels above it (Eq. 21). The unsliced network takes T (Eq. 19).

    Examples:
        >>> sequential_steps(512, (8, 8)), sequential_steps(512, ())
        (24, 512)
    """
    return sum(factors) + ceil_div(T, prod(factors))


@typechecked
def time_ratio(T: int, factors: Sequence[int]) -> float:
    """Return ``R = 1 / n^k + n k / T`` (Eq. 23): the sliced network's time over the unsliced one's, all slices at once.

    Examples:
        The paper's longest sequence, which it measured to be 136 times as fast:

        >>> round(1 / time_ratio(32768, (8,) * 4), 1)
        819.2
    """
    return sequential_steps(T, factors) / T


def fold(
    x: Float[Tensor, "batch step feature"], counts: Int[Tensor, "batch"] | None, slices: int, length: int
) -> tuple[Float[Tensor, "row _ feature"], Int[Tensor, "row"] | None]:
    """Return the slices of all sequences as rows of one batch, and the number of steps in each row if some are padding.

    The rows are a view if ``x`` is contiguous and fills the slices; otherwise zeros are added at the end.

    Examples:
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 5, 1)
        >>> rows, steps = fold(x, None, slices=2, length=3)
        >>> rows[..., 0].tolist(), steps
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]], tensor([3, 2]))
    """
    missing = slices * length - x.shape[1]
    if missing and counts is None:
        counts = torch.full((x.shape[0],), x.shape[1], device=x.device)
    rows = (F.pad(x, (0, 0, 0, missing)) if missing else x).reshape(-1, length, x.shape[2])
    if counts is None:
        return rows, None
    starts = torch.arange(slices, device=counts.device) * length
    return rows, (counts[:, None] - starts).clamp(0, length).flatten()


def padding_mask(steps: Int[Tensor, "*n"], length: int) -> Bool[Tensor, "*n step"]:
    """Return True for each of ``length`` steps that comes after the first ``steps``, False for the others.

    Examples:
        >>> padding_mask(torch.tensor([2, 0]), 3).int()
        tensor([[0, 0, 1],
                [1, 1, 1]], dtype=torch.int32)
    """
    return torch.arange(length, device=steps.device) >= steps[..., None]
