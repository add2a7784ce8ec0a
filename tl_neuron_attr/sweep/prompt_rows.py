"""What is measured on prompts, as rows of a shard: one record per prompt, lists of numbers of 32 bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tl_neuron_attr.evaluate.outcome import Outcome

_OUTCOME = ("rank", "prob", "log_prob")


def left_out_rows(items: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Return by item what a row says of a prompt before it is run, and alone if it can't be: what it is, and why."""
    named = items[["type", "target_id", "target_tokens", "problem"]].rename(columns={"problem": "status"})
    rows = zip(named.index.tolist(), named.to_dict("records"), strict=True)
    return {int(item): {"item": int(item), **{str(name): of for name, of in row.items()}} for item, row in rows}


def outcome_columns(found: Sequence[Outcome]) -> dict[str, Tensor]:
    """Return rank, probability and log-probability by condition, one row per prompt."""
    return {of: torch.stack([getattr(one, of).float() for one in found], dim=1) for of in _OUTCOME}


def prompt_records(columns: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return one record per prompt, each value a list of numbers of 32 bits: what a row of Parquet holds."""
    arrays = {name: column.cpu().numpy() for name, column in columns.items()}
    n = len(next(iter(arrays.values())))
    small = {name: v.astype(np.float32 if v.dtype.kind == "f" else np.int32) for name, v in arrays.items()}
    return [{name: column[i] for name, column in small.items()} for i in range(n)]
