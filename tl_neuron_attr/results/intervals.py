"""How sure a mean over prompts is: bootstrap percentile intervals.

Prompts are drawn here without regard to labels. :mod:`tl_neuron_attr.incontext.resampling` draws them label by label,
for all measures together, and takes its percentiles from here.

One prompt has no interval: drawn again it is always itself, and the ends would lie on it as if nothing were in doubt.
Its ends are NaN, and :func:`shown_interval` says so.
"""

from math import isfinite, nan

import numpy as np
import pandas as pd

RESAMPLES = 2000
"""Enough: from seed to seed an end of a 95 % interval moves by about 2 % of its width (standard deviation)."""
ENDS = ("", "_low", "_high")
"""What the columns of a value and of its interval's ends add to its name."""
LEAST = 2
"""The prompts that an interval needs: draws of one are all the same."""
_NOTHING = 1e-12
"""Means below this are 0: values that cancel leave 1e-16 or 0, as the processor adds them up."""
Sample = np.ndarray[tuple[int], np.dtype[np.float64]]


def interval(values: pd.Series, *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of values and its bootstrap percentile interval; the same seed gives the same one.

    Examples:
        >>> interval(pd.Series([1.0, 1.0, 1.0]))
        (1.0, 1.0, 1.0)
        >>> interval(pd.Series([1.0]))
        (1.0, nan, nan)
    """
    sample = values.to_numpy(dtype=float)
    if len(sample) < LEAST:
        return no_interval(sample.mean())
    drawn = _drawn(len(sample), np.random.default_rng(seed))
    return percentile_interval(sample.mean(), sample[drawn].mean(axis=1), level=level)


def no_interval(value: float) -> tuple[float, float, float]:
    """Return a value whose interval is not known."""
    return float(value), nan, nan


def shown_interval(value: float, low: float, high: float, *, spec: str = ".3f", unit: str = "") -> str:
    """Return a value and its unit with its interval as text, or with a note that it has none.

    Examples:
        >>> shown_interval(0.5, 0.25, 0.75, spec=".2f"), shown_interval(*interval(pd.Series([0.5])), spec=".2f")
        ('0.50 [0.25, 0.75]', '0.50 (no interval)')
    """
    if not (isfinite(low) and isfinite(high)):
        return f"{value:{spec}}{unit} (no interval)"
    return f"{value:{spec}}{unit} [{low:{spec}}, {high:{spec}}]"


def named_interval(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    """Return a value with its interval as columns: ``name``, ``name_low``, ``name_high``.

    Examples:
        >>> named_interval("prob", (0.5, 0.25, 0.75))
        {'prob': 0.5, 'prob_low': 0.25, 'prob_high': 0.75}
    """
    return {f"{name}{end}": value for end, value in zip(ENDS, found, strict=True)}


def percentile_interval(value: float, resampled: Sample, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return a value and the percentiles of its resamples between which ``level`` of them lie.

    Examples:
        >>> percentile_interval(1.0, np.array([0.0, 1.0, 2.0]), level=0.5)
        (1.0, 0.5, 1.5)
    """
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(value), float(low), float(high)


def difference_interval(
    first: Sample, second: Sample, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the difference of two independent samples' means and its bootstrap percentile interval.

    Examples:
        >>> difference_interval(np.array([3.0, 3.0]), np.array([1.0, 1.0]))
        (2.0, 2.0, 2.0)
    """
    if min(len(first), len(second)) < LEAST:
        return no_interval(first.mean() - second.mean())
    rng = np.random.default_rng(seed)
    means = [sample[_drawn(len(sample), rng)].mean(axis=1) for sample in (first, second)]
    return percentile_interval(first.mean() - second.mean(), means[0] - means[1], level=level)


def change_interval(before: Sample, after: Sample, *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Return how much of a mean over prompts is gained or lost, in per cent, and its bootstrap percentile interval.

    Prompts are drawn with both their values. Not finite where the mean before is 0.

    Examples:
        >>> change_interval(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
        (100.0, 100.0, 100.0)
    """
    drawn = _drawn(len(before), np.random.default_rng(seed))
    change = percent_change(before.mean(keepdims=True), after.mean(keepdims=True)).item()
    if len(before) < LEAST:
        return no_interval(change)
    changes = percent_change(before[drawn].mean(axis=1), after[drawn].mean(axis=1))
    with np.errstate(invalid="ignore"):
        return percentile_interval(change, changes, level=level)


def percent_change(before: Sample, after: Sample) -> Sample:
    """Return how much of each value is gained or lost, in per cent; not finite where there was nothing.

    Examples:
        >>> percent_change(np.array([4.0, 0.0]), np.array([5.0, 0.0]))
        array([25., nan])
    """
    before, after = (np.where(np.abs(means) < _NOTHING, 0.0, means) for means in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * (after / before - 1)


def _drawn(n: int, rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the prompts that each resample holds, out of ``n``."""
    return rng.integers(0, n, (RESAMPLES, n))
