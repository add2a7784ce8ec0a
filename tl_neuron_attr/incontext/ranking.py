"""Every head's scores in one frame, and the heads that two rankings choose together."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.incontext.outcomes import Among, Outcomes
from tl_neuron_attr.incontext.static_scores import StaticScores
from tl_neuron_attr.model.components import Head

Combine = Literal["rank", "union", "intersection"]
Measure = Literal["accuracy", "log_odds"]


def static_frame(static: StaticScores, labels: Sequence[str]) -> pd.DataFrame:
    """Return one row per head: ``layer``, ``head``, ``attention``, ``static``, ``static_<label>`` by label followed."""
    n_layers, n_heads = static.increase.shape[1:]
    columns = {"attention": static.attention.mean(0), "static": static.increase.mean(0)}
    for i, word in enumerate(labels):
        columns[f"static_{word}"] = static.increase[static.followed == i].mean(0)
    heads = {
        "layer": [layer for layer in range(n_layers) for _ in range(n_heads)],
        "head": list(range(n_heads)) * n_layers,
    }
    return pd.DataFrame(heads | {name: values.flatten().tolist() for name, values in columns.items()})


def with_causal(
    frame: pd.DataFrame,
    candidates: Sequence[Head],
    before: Outcomes,
    without: Outcomes,
    labels: Sequence[str],
    among: Among,
) -> pd.DataFrame:
    """Return the frame with the accuracy and log-odds lost by zeroing each candidate; NaN for the other heads."""
    lost = before.right(among).double() - without.right(among).double()
    columns = {"causal": lost.mean(-1)}
    for i, word in enumerate(labels):
        columns[f"causal_{word}"] = lost[:, before.gold == i].mean(-1)
    for other in ("vocabulary", "labels"):
        columns[f"lost_{other}"] = (before.right(other).double() - without.right(other).double()).mean(-1)
    columns["log_odds"] = (before.log_odds - without.log_odds).mean(-1)
    measured = pd.DataFrame({name: values.tolist() for name, values in columns.items()})
    places = pd.DataFrame(candidates, columns=["layer", "head"])
    joined = frame.merge(pd.concat([places, measured], axis=1), how="left", on=["layer", "head"])
    return joined.assign(candidate=joined["causal"].notna())


def choose(frame: pd.DataFrame, n: int, combine: Combine, causal: Measure) -> pd.DataFrame:
    """Return the frame with the chosen heads marked and first, the best at the top.

    Raises:
        ValueError: If ``n`` is not between 1 and the number of candidates.
    """
    candidates = frame[frame["candidate"]]
    if not 1 <= n <= len(candidates):
        raise ValueError(f"n must be between 1 and the {len(candidates)} candidate heads, got {n}")
    by_static = _ranks(candidates, ["static"])
    by_causal = _ranks(candidates, ["causal", "log_odds"] if causal == "accuracy" else ["log_odds"])
    total = by_static + by_causal
    order = total.sort_values(kind="stable").index
    if combine == "rank":
        found = order[:n]
    else:
        inside = [(by_static < n), (by_causal < n)]
        wanted = inside[0] | inside[1] if combine == "union" else inside[0] & inside[1]
        found = order[wanted[order]]
    marked = frame.assign(found=frame.index.isin(found))
    return marked.loc[[*found, *marked.index.difference(found)]].reset_index(drop=True)


def pairs(frame: pd.DataFrame) -> list[Head]:
    """Return the rows of a frame as heads."""
    return [(int(layer), int(head)) for layer, head in zip(frame["layer"], frame["head"], strict=True)]


def matrix(frame: pd.DataFrame, name: str) -> Float[Tensor, "layer head"]:
    """Return a column of the frame as a matrix."""
    return torch.tensor(frame.pivot(index="layer", columns="head", values=name).to_numpy(dtype=float))


def _ranks(frame: pd.DataFrame, by: list[str]) -> pd.Series:
    """Return 0 for the highest; ties go by the next column, then by layer and head."""
    order = frame.sort_values(by, ascending=False, kind="stable").index
    return pd.Series(range(len(order)), index=order)
