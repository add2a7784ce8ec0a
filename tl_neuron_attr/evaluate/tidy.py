"""From the records of single prompts to tidy frames."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from tl_neuron_attr.evaluate.examine import CONDITIONS
from tl_neuron_attr.evaluate.results import KnowledgeStudy
from tl_neuron_attr.evaluate.specificity import tidy_drops

_Record = Mapping[str, Tensor]
SETS = ("all", "positive", "top100", "top200")
_DROPS = ("prompt", "type", "kind", "common", "neurons", "own", "others")


def tidy(
    selection: pd.DataFrame,
    records: Mapping[int, _Record],
    cross: Mapping[int, Tensor],
    specific: Mapping[int, _Record],
    types: Sequence[str],
    width: int,
    sizes: Mapping[str, float | int],
) -> KnowledgeStudy:
    """Return a study's frames.

    Args:
        selection: Every prompt and whether it was kept.
        records: By prompt, what :func:`~tl_neuron_attr.evaluate.examine.examine` found.
        cross: By prompt, the outcomes untouched and with each type's heads zeroed.
        specific: By prompt, what :func:`~tl_neuron_attr.evaluate.specificity.drops` found; empty for a single type.
        types: The types, in the order of ``cross``.
        width: MLP neurons of the widest layer, by which they were numbered.
        sizes: How many neurons the experiments took.
    """
    kind = selection["type"]

    def frame(part: Callable[[_Record], pd.DataFrame]) -> pd.DataFrame:
        rows = [part(record).assign(prompt=i, type=kind[i]) for i, record in records.items()]
        joined = pd.concat(rows, ignore_index=True)
        return joined[["prompt", "type", *(c for c in joined.columns if c not in ("prompt", "type"))]]

    outcomes = [
        _outcomes(record["outcomes"], CONDITIONS).assign(prompt=i, type=kind[i]) for i, record in records.items()
    ]
    crossed = [_outcomes(found, (CONDITIONS[0], *types)).assign(prompt=i, type=kind[i]) for i, found in cross.items()]
    losses = [tidy_drops(found).assign(prompt=i, type=kind[i]) for i, found in specific.items()]
    n_layers = len(next(iter(records.values()))["layers_attn"])
    return KnowledgeStudy(
        selection=selection,
        layers=frame(lambda r: _by_layer({"attn": r["layers_attn"], "mlp": r["layers_mlp"]})),
        heads=frame(lambda r: _heads(r["heads"])),
        sums=frame(lambda r: _sums(r["sums"])),
        query_layers=frame(_query_layers),
        outcomes=pd.concat(outcomes, ignore_index=True),
        cross=pd.concat(crossed, ignore_index=True),
        specificity=_specificity(losses),
        neurons=frame(lambda r: _neurons(r, width)),
        segments=frame(
            lambda r: pd.DataFrame({"point": range(len(r["segments"])), "log_prob": r["segments"].tolist()})
        ),
        sizes=pd.DataFrame([*sizes.items(), ("n_layers", n_layers)], columns=["name", "value"]),
    )


def _specificity(losses: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(losses, ignore_index=True)[list(_DROPS)] if losses else pd.DataFrame(columns=list(_DROPS))


def _by_layer(scores: Mapping[str, Tensor]) -> pd.DataFrame:
    frames = [pd.DataFrame({"site": s, "layer": range(len(v)), "score": v.tolist()}) for s, v in scores.items()]
    return pd.concat(frames, ignore_index=True)


def _heads(scores: Tensor) -> pd.DataFrame:
    layer, head = torch.meshgrid(*(torch.arange(n) for n in scores.shape), indexing="ij")
    columns = {"layer": layer.flatten(), "head": head.flatten(), "score": scores.flatten()}
    return pd.DataFrame({name: column.tolist() for name, column in columns.items()})


def _sums(sums: Tensor) -> pd.DataFrame:
    rows = [
        {"site": site, "neurons": name, "score": value}
        for site, line in zip(("attn", "mlp"), sums.tolist(), strict=True)
        for name, value in zip(SETS[-len(line) :], line, strict=True)
    ]
    return pd.DataFrame(rows)


def _query_layers(record: _Record) -> pd.DataFrame:
    frames = [
        _by_layer({"attn": record[f"query_{of}_attn"], "mlp": record[f"query_{of}_mlp"]}).assign(of=of)
        for of in ("mlp", "attn")
    ]
    return pd.concat(frames, ignore_index=True)[["of", "site", "layer", "score"]]


def _neurons(record: _Record, width: int) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "kind": kind,
                "place": range(len(record[f"{kind}_neurons"])),
                "layer": (record[f"{kind}_neurons"] // width).tolist(),
                "index": (record[f"{kind}_neurons"] % width).tolist(),
            }
        )
        for kind in ("value", "query")
    ]
    return pd.concat(frames, ignore_index=True)


def _outcomes(found: Tensor, names: Sequence[str]) -> pd.DataFrame:
    rank, prob, log_prob = found.unbind(1)
    columns = {"rank": rank.long(), "reciprocal_rank": 1 / rank, "prob": prob, "log_prob": log_prob}
    return pd.DataFrame({"zeroed": list(names), **{name: column.tolist() for name, column in columns.items()}})
