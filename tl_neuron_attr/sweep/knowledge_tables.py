"""From the rows of a knowledge study to the paper's tables, a shard at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tl_neuron_attr.evaluate.examine import CONDITIONS, Sizes
from tl_neuron_attr.evaluate.outcome import METRICS
from tl_neuron_attr.evaluate.results import decreases_of_means
from tl_neuron_attr.evaluate.select import KEPT
from tl_neuron_attr.evaluate.tidy import SETS
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.sweep.shard_task import Frames

_Numbers = NDArray[np.float64]
_SCORES = (
    *("layers_attn", "layers_mlp", "heads"),
    *("query_mlp_attn", "query_mlp_mlp", "query_attn_attn", "query_attn_mlp"),
)
_NEURON_SUMS = "neuron_sums"
_NORMAL = 1.96
"""Standard errors on either side of a mean that hold 95 % of a normal distribution."""


class Sums:
    """Sums of list columns and of their squares over prompts, by type: all that a mean and its error need."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[_Numbers, _Numbers, int]] = {}

    def add(self, frame: pd.DataFrame, columns: Iterable[str] = ("heads",)) -> None:
        """Add the rows of a shard that hold the columns."""
        for column in columns:
            if column not in frame:
                continue
            measured = frame[frame[column].notna()]
            for kind, group in measured.groupby("type", sort=False):
                values = np.stack(group[column].tolist()).astype(np.float64)
                zero = np.zeros(values.shape[1])
                total, squares, n = self._sums.get((str(kind), column), (zero, zero, 0))
                self._sums[str(kind), column] = (
                    total + values.sum(0),
                    squares + (values**2).sum(0),
                    n + len(values),
                )

    def means(self, column: str) -> dict[str, _Numbers]:
        """Return the mean of a column over the prompts of each type."""
        return {kind: total / n for (kind, name), (total, _, n) in self._sums.items() if name == column}

    def errors(self, column: str) -> dict[str, _Numbers]:
        """Return the standard error of each mean; NaN of a single prompt, which has none."""
        return {
            kind: np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0) / (n - 1 or np.nan))
            for (kind, name), (total, squares, n) in self._sums.items()
            if name == column
        }


def knowledge_tables(frames: Frames, sizes: Sizes) -> dict[str, pd.DataFrame]:
    """Return the tables of paper 1, section 4, by name.

    Means have ``_low`` and ``_high``, 1.96 standard errors away: what a bootstrap tends to with many prompts.
    ``kept``: prompts asked, kept, and kept with an answer of several tokens, by type. ``statuses``: how many prompts
    were kept, or why not. ``layer_sums`` (Table 3), ``layers`` (Table 4), ``heads`` (Table 10), ``query_layers``
    (Tables 6 and 14), ``neuron_sums`` (Table 5, where every neuron was scored): scores in nats. ``outcomes`` and
    ``decreases`` (Tables 7 and 13), ``cross`` (Table 11): what zeroing costs. ``shared`` (Table 8): neurons among the
    best of more than half of a type's prompts; ``depth`` (Figure 8): query neurons by layer.
    """
    sums, counts, statuses = Sums(), _Counts(sizes.shared), Statuses()
    for frame in frames("scores"):
        statuses.add(frame)
        derived = measured_rows(frame)
        sums.add(derived, (*_SCORES, "site_sums", _NEURON_SUMS, *METRICS))
        counts.add(frame)
    cross = Sums()
    for frame in frames("cross"):
        cross.add(measured_rows(frame), METRICS)
    outcomes = _outcomes(sums, CONDITIONS)
    crossed = _outcomes(cross, (CONDITIONS[0], *sums.means("heads")))
    summed = {_NEURON_SUMS: _neuron_sums(sums)} if sums.means(_NEURON_SUMS) else {}
    return {
        **summed,
        "kept": statuses.kept(),
        "statuses": statuses.counted(),
        "layer_sums": _layer_sums(sums),
        "layers": _by_site(sums, "layers"),
        "heads": head_table(sums, max(map(len, sums.means("layers_attn").values()), default=1)),
        "query_layers": pd.concat([_by_site(sums, f"query_{of}").assign(of=of) for of in ("mlp", "attn")]),
        "outcomes": outcomes,
        "decreases": _decreases(outcomes),
        "cross": crossed,
        "cross_decreases": _decreases(crossed),
        "shared": counts.shared(),
        "depth": counts.depth(),
    }


class Statuses:
    """How many prompts of each type were kept, or why not."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._several: Counter[str] = Counter()

    def add(self, frame: pd.DataFrame) -> None:
        """Add the rows of a shard."""
        self._counts.update(zip(frame["type"], frame["status"], strict=True))
        self._several.update(frame["type"][(frame["status"] == KEPT) & (frame["target_tokens"] > 1)])

    def counted(self) -> pd.DataFrame:
        """Return how many prompts there are of each type and status."""
        return pd.DataFrame([(*key, n) for key, n in self._counts.items()], columns=["type", "status", "prompts"])

    def kept(self) -> pd.DataFrame:
        """Return how many prompts of each type were asked, and kept."""
        counted = self.counted()
        chosen = counted["prompts"].where(counted["status"] == KEPT, 0)
        grouped = counted.assign(kept=chosen).groupby("type", sort=False)
        found = grouped.agg(asked=("prompts", "sum"), kept=("kept", "sum")).reset_index()
        return found.assign(several_tokens=[self._several[kind] for kind in found["type"]])


class _Counts:
    """In how many prompts of a type each neuron is among the best, and how many query neurons lie in each layer."""

    def __init__(self, best: int) -> None:
        self._best = best
        self._among: dict[tuple[str, str], Counter[int]] = {}
        self._layers: dict[str, _Numbers] = {}
        self._prompts: Counter[str] = Counter()

    def add(self, frame: pd.DataFrame) -> None:
        kept = frame[frame["status"] == KEPT]
        for kind, group in kept.groupby("type", sort=False):
            self._prompts[str(kind)] += len(group)
            for of in ("value", "query"):
                best = np.concatenate([numbers[: self._best] for numbers in _numbered(group, of)])
                numbers, counts = np.unique(best, return_counts=True)
                among = self._among.setdefault((str(kind), of), Counter())
                among.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        for value, query, mlp in zip(
            _numbered(kept, "value"), _numbered(kept, "query"), kept["layers_mlp"], strict=True
        ):
            both = np.isin(query, value)
            for name, chosen in (("queryvalue", query[both]), ("queryonly", query[~both])):
                layers = np.bincount(chosen // _WIDEST, minlength=len(mlp)).astype(np.float64)
                self._layers[name] = self._layers.get(name, np.zeros(len(mlp))) + layers

    def shared(self) -> pd.DataFrame:
        rows = [
            (kind, of, number // _WIDEST, number % _WIDEST, prompts)
            for (kind, of), counts in self._among.items()
            for number, prompts in sorted(counts.items())
            if prompts > self._prompts[kind] / 2
        ]
        return pd.DataFrame(rows, columns=["type", "kind", "layer", "index", "prompts"])

    def depth(self) -> pd.DataFrame:
        prompts = max(sum(self._prompts.values()), 1)
        frame = pd.DataFrame({name: counts / prompts for name, counts in self._layers.items()})
        return frame.rename_axis("layer").reset_index()


def _numbered(frame: pd.DataFrame, of: str) -> list[NDArray[np.int64]]:
    """Return each prompt's neurons, numbered through the layers."""
    columns = zip(frame[f"{of}_layer"], frame[f"{of}_index"], strict=True)
    return [np.asarray(layer, np.int64) * _WIDEST + np.asarray(index, np.int64) for layer, index in columns]


def measured_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that hold outcomes, with what is averaged but not stored."""
    measured = frame[frame["rank"].notna()] if "rank" in frame else frame.head(0)
    found = measured.assign(reciprocal_rank=[1 / np.asarray(rank, float) for rank in measured.get("rank", [])])
    if "layers_attn" in measured:
        both = zip(measured["layers_attn"], measured["layers_mlp"], strict=True)
        found = found.assign(site_sums=[np.array([a.sum(), m.sum()]) for a, m in both])
    return found


def mean_rows(sums: Sums, column: str) -> Iterator[dict[str, Any]]:
    """Yield ``type``, ``at``, and a mean with its interval for every number of a list column."""
    errors = sums.errors(column)
    for kind, means in sums.means(column).items():
        for at, (mean, error) in enumerate(zip(means.tolist(), errors[kind].tolist(), strict=True)):
            low, high = mean - _NORMAL * error, mean + _NORMAL * error
            yield {"type": kind, "at": at, "score": mean, "score_low": low, "score_high": high}


def _by_site(sums: Sums, name: str) -> pd.DataFrame:
    rows = [
        {"site": site, "layer": row.pop("at"), **row}
        for site in ("attn", "mlp")
        for row in mean_rows(sums, f"{name}_{site}")
    ]
    return pd.DataFrame(rows, columns=["type", "site", "layer", *_SCORE])


def _layer_sums(sums: Sums) -> pd.DataFrame:
    rows = [{"site": ("attn", "mlp")[row.pop("at")], **row} for row in mean_rows(sums, "site_sums")]
    return pd.DataFrame(rows, columns=["type", "site", *_SCORE])


def _neuron_sums(sums: Sums) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for row in mean_rows(sums, _NEURON_SUMS):
        site, neurons = divmod(row.pop("at"), len(SETS))
        rows.append({"site": SITES[site], "neurons": SETS[neurons], **row})
    return pd.DataFrame(rows, columns=["type", "site", "neurons", *_SCORE])


def head_table(sums: Sums, layers: int) -> pd.DataFrame:
    """Return the mean score of every head by type, in nats, with its interval."""
    heads = {kind: len(means) // layers for kind, means in sums.means("heads").items()}
    rows: list[dict[str, Any]] = []
    for row in mean_rows(sums, "heads"):
        layer, head = divmod(row.pop("at"), heads[row["type"]])
        rows.append({"layer": layer, "head": head, **row})
    return pd.DataFrame(rows, columns=["type", "layer", "head", *_SCORE])


def _outcomes(sums: Sums, conditions: Sequence[str]) -> pd.DataFrame:
    means = {metric: sums.means(metric) for metric in METRICS}
    rows = [
        {"type": kind, "zeroed": condition, **{metric: float(means[metric][kind][i]) for metric in METRICS}}
        for kind in means["prob"]
        for i, condition in enumerate(conditions)
    ]
    return pd.DataFrame(rows, columns=["type", "zeroed", *METRICS])


def _decreases(outcomes: pd.DataFrame) -> pd.DataFrame:
    return decreases_of_means(outcomes.set_index(["type", "zeroed"]), CONDITIONS[0])


_SCORE = ("score", "score_low", "score_high")
_WIDEST = 1 << 20
"""More MLP neurons than a layer of any model has: what neurons are numbered by through the layers."""
