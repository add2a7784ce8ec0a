"""How a sequence is cut: lengths and numbers of slices (paper 4, section 3.1), and what cutting saves (section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Slicing:
    """The factors a sequence is cut by, from the bottom up.

    Attributes:
        factors: How many states of level p - 1 a slice of level p reads, for p = 1..k: the paper's ``n``, ``k`` times.
        slice_len: How many steps a slice of level 0 reads, where that is fixed; otherwise it follows from T.

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
        """How often the sequence is cut; there are k + 1 levels."""
        return len(self.factors)

    @property
    def minimum_slices(self) -> int:
        """``s_0 = n^k``, the slices of level 0 (Eq. 11)."""
        return prod(self.factors)

    def levels(self, T: int) -> tuple[tuple[int, int], ...]:
        """How many slices a level has, and how many steps a slice: ``s_p`` and ``l_p`` (Eq. 10-13), for p = 0..k.

        ``l_0 = T / n^k`` unless ``slice_len`` is fixed, ``l_p = n`` and ``s_p = n^(k-p)``. Where T does not fill the
        slices, the last one of a level is shorter, and the top level's single slice reads what there is.
        """
        sizes: list[tuple[int, int]] = []
        steps = T
        for length in (self.slice_len or T // self.minimum_slices, *self.factors)[: self.k]:
            slices = ceil_div(steps, length)
            sizes.append((slices, length))
            steps = slices
        return (*sizes, (1, steps))


def as_factors(n: int | Sequence[int], k: int | None) -> tuple[int, ...]:
    """``n`` and ``k`` as one factor a level; ``k`` is 2 for an integer ``n``, and the length of a list.

    Raises:
        TypeError: If ``n`` or ``k`` is not made of integers.
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
    """Refuse what is no integer, or too small.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If it is less than ``at_least``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up.

    Examples:
        >>> ceil_div(9, 8), ceil_div(8, 8)
        (2, 1)
    """
    return (a + b - 1) // b


def sequential_steps(T: int, factors: Sequence[int]) -> int:
    """Steps that cannot run at once: ``n k + T / n^k`` (Eq. 22, in units of one step's time), T / n^k rounded up.

    Examples:
        >>> sequential_steps(512, (8, 8)), sequential_steps(512, ())
        (24, 512)
    """
    return sum(factors) + ceil_div(T, prod(factors))


def time_ratio(T: int, factors: Sequence[int]) -> float:
    """``R = 1 / n^k + n k / T``, the sliced network's time over the unsliced one's (Eq. 23), were all slices parallel.

    Examples:
        >>> round(1 / time_ratio(32768, (8,) * 4), 1)
        819.2
    """
    return sequential_steps(T, factors) / T


def fold(
    x: Float[Tensor, "batch step feature"], counts: Int[Tensor, "batch"] | None, slices: int, length: int
) -> tuple[Float[Tensor, "row length feature"], Int[Tensor, "row"] | None]:
    """The slices of all sequences as rows of one batch, and how many steps of each count where not all do.

    A view, if ``x`` is contiguous and fills the slices; else zeros are added at the end.

    Examples:
        >>> rows, steps = fold(torch.zeros(2, 7, 1), torch.tensor([7, 3]), slices=3, length=3)
        >>> tuple(rows.shape), steps
        ((6, 3, 1), tensor([3, 3, 1, 3, 0, 0]))
    """
    missing = slices * length - x.shape[1]
    if missing and counts is None:
        counts = torch.full((x.shape[0],), x.shape[1], device=x.device)
    rows = (F.pad(x, (0, 0, 0, missing)) if missing else x).reshape(-1, length, x.shape[2])
    if counts is None:
        return rows, None
    starts = torch.arange(slices, device=counts.device) * length
    return rows, (counts[:, None] - starts).clamp(0, length).flatten()


def beyond(steps: Int[Tensor, "*rows"], length: int) -> Bool[Tensor, "*rows step"]:
    """Which of ``length`` steps come after the first ``steps``.

    Examples:
        >>> beyond(torch.tensor([2, 0]), 3).int()
        tensor([[0, 0, 1],
                [1, 1, 1]], dtype=torch.int32)
    """
    return torch.arange(length, device=steps.device) >= steps[..., None]
