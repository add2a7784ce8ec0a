"""Which words single heads write at the labels of prompts (paper 2, Table 1), counted."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.incontext import IclPrompt, batch_of, icl_batches
from tl_neuron_attr.incontext.icl_batches import positions_of_labels
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.numerics.ranked_tokens import ranked_tokens
from tl_neuron_attr.results.intervals import interval, shown_interval
from tl_neuron_attr.results.token_text import token_text

BEST = 10
"""The words that are looked at of each vector, as in the paper's tables."""


def written_words(model: Any, prompts: Sequence[IclPrompt], heads: Sequence[Head], *, seed: int = 0) -> pd.DataFrame:
    """Return one row per head and label: how often the head writes the label where it stands, and the other one.

    What a head writes at a position is ``W_O W_V norm(h)``, read out over the vocabulary. A label counts as written if
    it is among the ten best tokens, in any case and with or without a space. The last rows are of as many other heads,
    drawn at random.
    """
    others = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    drawn = Random(f"words {seed}").sample([head for head in others if head not in heads], len(heads))
    frame = pd.concat(
        [
            _read(model, [prompts[i] for i in batch.indices], [*heads, *drawn], batch.indices)
            for batch in icl_batches(model, prompts, batch_size=16)
        ]
    )
    frame["shown"] = [head_name(*at) if at in heads else f"{len(drawn)} random heads" for at in frame["at"]]
    return pd.DataFrame(
        [
            {
                "head": name,
                "at": label,
                "writes it": _share(group, "own"),
                "writes the other": _share(group, "other"),
                "its median rank": f"{group['rank'].median():,.0f}",
            }
            for (name, label), group in frame.groupby(["shown", "label"], sort=False)
        ]
    )


def _share(group: pd.DataFrame, column: str) -> str:
    """Return the share of label positions, with its interval over prompts, which have as many each."""
    return shown_interval(*interval(group.groupby("prompt")[column].mean()), spec=".2f")


def _read(model: Any, prompts: Sequence[IclPrompt], heads: Sequence[Head], numbers: Sequence[int]) -> pd.DataFrame:
    """Return one row per head, prompt and label position."""
    labels, ids = prompts[0].labels, torch.tensor(prompts[0].label_ids)
    tokens, mask = batch_of(model, prompts).inputs()
    _, cache = run_at_last(model, tokens, needed_by(("attn",)), **mask)
    q = as_scored(cache, int(ids[0]), ("attn",), model=model)
    places = positions_of_labels(q.stream, prompts)
    there = torch.tensor([prompt.sequence for prompt in prompts])
    rows: list[dict[str, Any]] = []
    for at, written in _writes(q, heads, places):
        found = ranked_tokens(q.readout, written.flatten(0, 1), BEST, ids[there].flatten().to(written.device))
        spelled = [{_plain(token_text(model, token)) for token in best} for best in found.highest.tolist()]
        for i, (words, rank) in enumerate(zip(spelled, found.rank.tolist(), strict=True)):
            prompt, place = divmod(i, there.shape[1])
            own, other = labels[there[prompt, place]], labels[1 - there[prompt, place]]
            counted = {"own": _plain(own) in words, "other": _plain(other) in words}
            rows.append({"at": at, "prompt": numbers[prompt], "label": own, "rank": rank} | counted)
    return pd.DataFrame(rows)


def _writes(
    q: Any, heads: Sequence[Head], places: Int[Tensor, "prompt label"]
) -> list[tuple[Head, Float[Tensor, "prompt label d_model"]]]:
    """Return what each head would write at every label if it attended to that label only."""
    found: dict[Head, Tensor] = {}
    layers = sorted({layer for layer, _ in heads})
    for layer, sublayer in zip(layers, q.checked_sublayers(("attn",), layers), strict=True):
        alone = replace(sublayer, coefficients=q.stream.attn_values(layer, q.stream.last).flatten(1, 2))
        every = alone.head_writes()
        rows = torch.arange(len(places), device=places.device)[:, None]
        found |= {(layer, head): every[rows, head, places] for at, head in heads if at == layer}
    return [(at, found[at]) for at in heads]


def _plain(word: str) -> str:
    return word.strip().casefold()
