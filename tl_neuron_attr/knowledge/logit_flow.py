"""The logit flow: where along the prompt, and at which layer, a token's log-probability rises.

The log-probability increase (paper 1, Eq. 13) of every sublayer at every position, each position read out with its own
final norm frozen: what attention and MLPs put there of the target, or of an entity on the way to it (Yu and Ananiadou,
EMNLP 2025, "Back Attention").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.knowledge.attribution import attribute_layers
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens
from tl_neuron_attr.model.positions import Positions
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible

if TYPE_CHECKING:
    import pandas as pd

_STRONGEST = 12
"""Rows of the printed table: a screen of them."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class LogitFlow(PrintsAsTable):
    """What each sublayer adds to a token's log-probability at each position, in nats.

    Attributes:
        attn: The attention sublayers.
        mlp: The MLP sublayers.
        tokens: The prompts' tokens.
    """

    attn: Float[Tensor, "*b layer pos"]
    mlp: Float[Tensor, "*b layer pos"]
    tokens: tuple[tuple[str, ...], ...]

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per prompt, site, layer and position, with the token there."""
        import pandas as pd

        rows = [
            {"prompt": b, "site": site, "layer": layer, "pos": pos, "token": self.tokens[b][pos], "score": score}
            for site, grid in (("attn", self.attn), ("mlp", self.mlp))
            for b, by_layer in enumerate(grid.reshape(-1, *grid.shape[-2:]).tolist())
            for layer, line in enumerate(by_layer)
            for pos, score in enumerate(line)
        ]
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return the strongest entries, whatever their sign."""
        frame = self.to_frame().sort_values("score", key=abs, ascending=False, kind="stable").head(_STRONGEST)
        several = len(self.tokens) > 1
        rows = [
            (row["prompt"], f"L{row['layer']} {row['site']}", f"{visible(row['token'])} @{row['pos']}", row["score"])
            for row in frame.to_dict("records")
        ]
        headings = ("prompt", "sublayer", "position", "score")
        caption = f"the strongest of {2 * self.attn.numel()}, in nats"
        return Table(headings, rows, caption) if several else Table(headings[1:], [row[1:] for row in rows], caption)


@typechecked
@torch.no_grad()
def logit_flow(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> LogitFlow:
    """Return how much each sublayer raises log p(target) at every position of the prompt, in nats.

    Paper 1, Eq. 13 with ``v`` the output of a sublayer, at each position in the place of the scored one: the columns at
    the scored position are :func:`~tl_neuron_attr.attribute_layers`. What the model predicts at earlier positions is
    the next token of the prompt; of interest is where the target, or an intermediate entity, becomes likelier there.

    Args:
        cache: A cache of a forward pass, with or without a batch dimension, all prompts of one length and none padded;
            or what :func:`~tl_neuron_attr.scored` made of it.
        target: The token followed: an id, a string that is one token, or one of them per prompt. Of an answer of
            several tokens (:func:`~tl_neuron_attr.answer`) each token's flow ends where the token is predicted, and the
            flows are added up.
        max_bytes: A cap on the working set; one position's base distributions are held at the least.
        **scoring: ``contrast``, ``model``, ``final_bias``, and ``pos``, behind which nothing is computed.

    Returns:
        ``.attn`` and ``.mlp``: ``Float["*b layer pos"]``.

    Raises:
        ValueError: If the positions scored differ between prompts, there are several right answers or a contrast of
            answers, or as :func:`~tl_neuron_attr.attribute_layers`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> flow = logit_flow(cache, " basketball")
        >>> layer, pos = divmod(int(flow.mlp.argmax()), flow.mlp.shape[-1])
        >>> f"L{layer} at {flow.tokens[0][pos].strip()}"  # three tokens before the last
        'L1 at plays'
    """
    q = as_scored(cache, target, max_bytes=max_bytes, **scoring)
    each = q.per_token
    if len({tuple(each.places.pos[q.result_of_place == result].tolist()) for result in range(len(q))}) != 1:
        raise ValueError(f"pos differs between prompts: {q.places.pos.tolist()}; logit_flow takes one for all")
    length, counts = int(q.places.pos.max()) + 1, q.places.pos + 1
    everywhere = _at_every_position(each, counts)
    scores = attribute_layers(everywhere, max_bytes=max_bytes)
    at = q.result_of_place.repeat_interleave(counts), everywhere.places.pos
    attn, mlp = (_added(grid, at, (len(q), length)) for grid in (scores.attn, scores.mlp))
    return LogitFlow(attn if q.batched else attn[0], mlp if q.batched else mlp[0], _tokens(q.stream, length))


def _at_every_position(q: ScoredCache, counts: Int[Tensor, "place"]) -> ScoredCache:
    """Return the same scored at every position of each prompt up to the one scored, one place after another."""
    row = q.places.row.repeat_interleave(counts)
    places = Positions(row, torch.cat([torch.arange(n, device=row.device) for n in counts.tolist()]))
    readout = replace(q.stream.readout(places), norm_bias=q.readout.norm_bias)
    contrast = None if q.contrast is None else q.contrast.repeat_interleave(counts)
    return ScoredCache(q.stream, places, readout, q.target.repeat_interleave(counts), contrast, q.max_bytes)


def _added(
    scores: Float[Tensor, "place layer"], at: tuple[Int[Tensor, "place"], Int[Tensor, "place"]], shape: tuple[int, int]
) -> Float[Tensor, "batch layer pos"]:
    """Return scores at their prompt and position, those of an answer's tokens added up."""
    return scores.new_zeros(*shape, scores.shape[1]).index_put(at, scores, accumulate=True).transpose(1, 2)


def _tokens(stream: Stream, length: int) -> tuple[tuple[str, ...], ...]:
    ids = stream.tokens()
    if ids is None:
        return (tuple(f"@{i}" for i in range(length)),) * stream.shape[0]
    rows: Sequence[tuple[str, ...]] = prompt_tokens(stream.model, ids[:, :length])
    return tuple(rows)
