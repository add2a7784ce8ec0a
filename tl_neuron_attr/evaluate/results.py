"""What a knowledge study found: tidy frames, and the paper's tables made from them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.evaluate.examine import CONDITIONS
from tl_neuron_attr.evaluate.outcome import METRICS
from tl_neuron_attr.evaluate.select import KEPT
from tl_neuron_attr.results import storage
from tl_neuron_attr.results.intervals import ENDS, interval, named_interval, shown_interval
from tl_neuron_attr.results.table import PrintsAsTable, Table


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class KnowledgeStudy(PrintsAsTable):
    """A study of where types of knowledge live. Scores in nats; ``prompt`` numbers the rows of ``selection``.

    Attributes:
        selection: Every prompt and whether it was kept: ``prompt``, ``target``, ``type``, ``target_id``,
            ``target_tokens``, ``status``.
        layers: ``prompt``, ``type``, ``site``, ``layer``, ``score``.
        heads: ``prompt``, ``type``, ``layer``, ``head``, ``score``.
        sums: ``prompt``, ``type``, ``site``, ``neurons`` (``all``, ``positive``, ``top100``, ``top200``), ``score``.
        query_layers: ``prompt``, ``type``, ``of`` (the value neurons' site), ``site``, ``layer``, ``score``.
        outcomes: ``prompt``, ``type``, ``zeroed``, ``rank``, ``reciprocal_rank``, ``prob``, ``log_prob``.
        cross: The same; ``zeroed`` is the type whose best heads were zeroed.
        specificity: ``prompt``, ``type``, ``kind``, ``common`` (whether those common to most prompts were zeroed too),
            ``neurons`` (how many), ``own`` and ``others``: what zeroing them took from the log-probability of the
            prompt's answer, and from those of prompts of other types, in nats. Empty for a single type.
        neurons: ``prompt``, ``type``, ``kind`` (``value``, ``query``), ``place`` (0 is best), ``layer``, ``index``.
        segments: ``prompt``, ``type``, ``point``, ``log_prob``: along the path from the embedding to the final stream.
        sizes: ``name``, ``value``: how many neurons the experiments took, and the model's ``n_layers``.
    """

    selection: pd.DataFrame
    layers: pd.DataFrame
    heads: pd.DataFrame
    sums: pd.DataFrame
    query_layers: pd.DataFrame
    outcomes: pd.DataFrame
    cross: pd.DataFrame
    specificity: pd.DataFrame
    neurons: pd.DataFrame
    segments: pd.DataFrame
    sizes: pd.DataFrame

    def kept(self) -> pd.DataFrame:
        """Return the yield of the selection rule, by type: prompts asked, kept, kept with several tokens to say."""
        kept = self.selection["status"] == KEPT
        marked = self.selection.assign(kept=kept, several=kept & (self.selection["target_tokens"] > 1))
        counts = {"asked": ("kept", "count"), "kept": ("kept", "sum"), "several_tokens": ("several", "sum")}
        return marked.groupby("type", sort=False).agg(**counts).reset_index()

    def layer_sums(self) -> pd.DataFrame:
        """Return Table 3: summed layer scores by type and site, mean over prompts and its 95 % interval."""
        per_prompt = self.layers.groupby(["type", "site", "prompt"], sort=False)["score"].sum().reset_index()
        return _with_interval(per_prompt, ["type", "site"], "score")

    @typechecked
    def top_layers(self, n: int = 10, *, of: str | None = None) -> pd.DataFrame:
        """Return Table 4, each type's best value layers; with ``of=`` a site, its query layers (Tables 6 and 14)."""
        frame = self.layers if of is None else self.query_layers[self.query_layers["of"] == of]
        means = frame.groupby(["type", "site", "layer"], sort=False)["score"].mean().reset_index()
        return best_by_type(means, n)

    @typechecked
    def top_heads(self, n: int = 10) -> pd.DataFrame:
        """Return Table 10 of the paper: the best heads of each type, mean over prompts."""
        means = self.heads.groupby(["type", "layer", "head"], sort=False)["score"].mean().reset_index()
        return best_by_type(means, n)

    def neuron_sums(self) -> pd.DataFrame:
        """Return Tables 5 and 12 of the paper: summed neuron scores by type, site and set of neurons."""
        return self.sums.groupby(["site", "neurons", "type"], sort=False)["score"].mean().unstack("type").reset_index()

    def decreases(self) -> pd.DataFrame:
        """Return Tables 7 and 13: how much of MRR and probability is lost by zeroing neurons, in per cent, by type."""
        return _decreases(self.outcomes, CONDITIONS[0])

    def cross_decreases(self) -> pd.DataFrame:
        """Return Table 11 of the paper: the same by zeroing the best heads of each type (``zeroed``) on every type."""
        return _decreases(self.cross, CONDITIONS[0])

    def specific_drops(self) -> pd.DataFrame:
        """Return what MLP value and query neurons are worth to their own prompt beyond what they are to other types.

        One row per kind, with and without the neurons common to most prompts: ``own``, ``others`` and their
        ``difference`` in nats, means over prompts with 95 % bootstrap intervals. The difference is paired: both losses
        of a prompt are drawn together.
        """
        rows: list[dict[str, Any]] = []
        frame = self.specificity.assign(difference=self.specificity["own"] - self.specificity["others"])
        for (kind, common), group in frame.groupby(["kind", "common"], sort=False):
            rows.append({"kind": kind, "common": common, "neurons": group["neurons"].mean()})
            for name in ("own", "others", "difference"):
                rows[-1] |= named_interval(name, interval(group[name]))
        return pd.DataFrame(rows)

    def depth(self) -> pd.DataFrame:
        """Return Figure 8, query neurons per prompt and layer: also value neurons (``queryvalue``) or ``queryonly``."""
        sets = self.neurons.assign(one=1).pivot_table(
            index=["prompt", "type", "layer", "index"], columns="kind", values="one", fill_value=0
        )
        sets = sets.reindex(columns=["query", "value"], fill_value=0)
        query = sets["query"] == 1
        counted = pd.DataFrame(
            {"queryvalue": query & (sets["value"] == 1), "queryonly": query & (sets["value"] == 0)}, dtype=float
        )
        prompts = self.neurons["prompt"].nunique()
        n_layers = int(self.sizes.set_index("name")["value"]["n_layers"])
        by_layer = counted.groupby("layer").sum() / max(prompts, 1)
        return by_layer.reindex(range(n_layers), fill_value=0.0).rename_axis("layer").reset_index()

    def shared(self) -> pd.DataFrame:
        """Return Table 8 of the paper: neurons among the best of more than half of a type's prompts, by kind."""
        common = self._common()
        return common.groupby(["type", "kind"], sort=False).size().rename("neurons").reset_index()

    @typechecked
    def shared_between(self, kind: str = "value") -> pd.DataFrame:
        """Return how many shared neurons two types have in common: a square frame, types in rows and columns."""
        common = self._common()
        sets = {
            name: set(zip(group["layer"], group["index"], strict=True))
            for name, group in common[common["kind"] == kind].groupby("type", sort=False)
        }
        return pd.DataFrame({a: {b: len(sets[a] & sets[b]) for b in sets} for a in sets})

    def table(self) -> Table:
        """Return yield, layer sums and what zeroing costs, one row per type."""
        sums = {(r["type"], r["site"]): r["score"] for r in self.layer_sums().to_dict("records")}
        lost = {(r["type"], r["zeroed"]): r["prob"] for r in self.decreases().to_dict("records")}
        rows = [
            (
                row["type"],
                f"{row['kept']} of {row['asked']}",
                *(sums.get((row["type"], site)) for site in ("attn", "mlp")),
                *(lost.get((row["type"], condition)) for condition in CONDITIONS[1:]),
            )
            for row in self.kept().to_dict("records")
        ]
        headings = ("type", "kept", "attention (nats)", "MLP (nats)", *(f"{c} zeroed, prob -%" for c in CONDITIONS[1:]))
        return Table(headings, rows, self._caption())

    @typechecked
    def save(self, folder: str | Path) -> None:
        """Write every frame as Parquet, each whole or not at all; the folder is made if there is none.

        Raises:
            OSError: If a file can't be written, naming it.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, frame in self._frames().items():
            write_frame(Path(folder) / f"{name}.parquet", frame)

    @classmethod
    @typechecked
    def load(cls, folder: str | Path) -> "KnowledgeStudy":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If a frame is missing, naming it.
            ValueError: If a frame's file is damaged, or lacks a column, naming it.
        """
        names = [f.name for f in fields(cls)]
        for name in names:
            if not (Path(folder) / f"{name}.parquet").is_file():
                raise FileNotFoundError(f"{folder} holds no finished study: {name}.parquet is missing")
        return cls(**{name: read_frame(Path(folder) / f"{name}.parquet", name) for name in names})

    def _caption(self) -> str:
        """Say how many neurons were zeroed, the paper's sizes beside, and what the query neurons are worth."""
        n = self.sizes.set_index("name")["value"]
        sizes = f"{n['value_attn']:.0f} attention and {n['value_mlp']:.0f} MLP value neurons, {n['query']:.0f} query"
        found = "layer scores, and what zeroing neurons takes from the probability\n"
        found += f"zeroed: {sizes} neurons (the paper: 200, 100, 1,000)"
        for row in self.specific_drops().to_dict("records"):
            what = f"{row['neurons']:.0f} {row['kind']} neurons" + ("" if row["common"] else " that are not common")
            found += f"\n{what}: {row['own']:.2f} nats of the own answer, {row['others']:.2f} of other types', "
            found += "difference " + shown_interval(*(row[f"difference{end}"] for end in ENDS), spec=".2f")
        return found

    def _frames(self) -> Mapping[str, pd.DataFrame]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _common(self) -> pd.DataFrame:
        """Return the neurons among the best of more than half of a type's prompts."""
        best = int(self.sizes.set_index("name")["value"]["shared"])
        among = self.neurons[self.neurons["place"] < best]
        counts = among.groupby(["type", "kind", "layer", "index"], sort=False)["prompt"].nunique().reset_index()
        prompts = self.neurons.groupby("type")["prompt"].nunique()
        return counts[counts["prompt"] > counts["type"].map(prompts) / 2]


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as Parquet; the file appears whole or not at all.

    Raises:
        OSError: If it can't be written, naming it.
    """
    with storage.whole(path) as partial:
        frame.to_parquet(partial, index=False)


def read_frame(path: Path, name: str) -> pd.DataFrame:
    """Read one of a study's frames.

    Raises:
        ValueError: If the file is damaged, or lacks a column of the frame ``name``.
    """
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0][:200]}") from error
    if missing := [column for column in _COLUMNS[name] if column not in frame]:
        raise ValueError(f"{path} lacks the column {missing[0]!r}")
    return frame


_OUTCOMES = ("prompt", "type", "zeroed", "rank", "reciprocal_rank", "prob", "log_prob")

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "selection": ("prompt", "target", "type", "target_id", "target_tokens", "status"),
    "layers": ("prompt", "type", "site", "layer", "score"),
    "heads": ("prompt", "type", "layer", "head", "score"),
    "sums": ("prompt", "type", "site", "neurons", "score"),
    "query_layers": ("prompt", "type", "of", "site", "layer", "score"),
    "outcomes": _OUTCOMES,
    "cross": _OUTCOMES,
    "specificity": ("prompt", "type", "kind", "common", "neurons", "own", "others"),
    "neurons": ("prompt", "type", "kind", "place", "layer", "index"),
    "segments": ("prompt", "type", "point", "log_prob"),
    "sizes": ("name", "value"),
}
"""The columns of each frame, as :class:`KnowledgeStudy` lists them."""


def _with_interval(frame: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    rows = [
        dict(zip(by, key, strict=True)) | named_interval(column, interval(group[column]))
        for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, column, f"{column}_low", f"{column}_high"])


def best_by_type(means: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return each type's ``n`` rows of largest ``score``, best first, with their ``place``."""
    ordered = means.sort_values("score", ascending=False, kind="stable")
    best = ordered.groupby("type", sort=False).head(n).reset_index(drop=True)
    return best.assign(place=best.groupby("type").cumcount() + 1).sort_values(["type", "place"], ignore_index=True)


def _decreases(frame: pd.DataFrame, untouched: str) -> pd.DataFrame:
    return decreases_of_means(frame.groupby(["type", "zeroed"], sort=False)[list(METRICS)].mean(), untouched)


def decreases_of_means(means: pd.DataFrame, untouched: str) -> pd.DataFrame:
    """Return the part of each metric's mean that is lost, in per cent; of the log-probability the change in nats.

    Args:
        means: The metrics by ``type`` and ``zeroed``.
        untouched: What ``zeroed`` says where nothing was.
    """
    before = means.xs(untouched, level="zeroed")
    after = means.drop(index=untouched, level="zeroed").reset_index()
    matched = before.reindex(after["type"]).reset_index(drop=True)
    lost = {m: 100 * (1 - after[m] / matched[m]) for m in ("reciprocal_rank", "prob")}
    return after[["type", "zeroed"]].assign(**lost, log_prob=after["log_prob"] - matched["log_prob"])
