"""Exact scores that are kept: several searches of one prediction score a neuron once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.exact_scores import exact_scores
from tl_neuron_attr.numerics.increase import Increase
from tl_neuron_attr.numerics.sublayer import Sublayer

KeptScores = dict[tuple[int, int, int], tuple[float, list[int]]]
"""By how many promoted tokens were asked for, place, and neuron counted over all sublayers: its score, the tokens."""


def kept_scores(
    kept: KeptScores,
    increases: Sequence[Increase],
    sublayers: Sequence[Sublayer],
    rows: Int[Tensor, "n"],
    flat: Int[Tensor, "n"],
    *,
    max_bytes: int,
    promoted: Int[Tensor, "n best"] | None = None,
) -> Float[Tensor, "n"]:
    """Return what :func:`exact_scores` does: what is in ``kept`` as it was found, and what is not is put there."""
    asked = 0 if promoted is None else promoted.shape[1]
    keys = [(asked, *key) for key in zip(rows.tolist(), flat.tolist(), strict=True)]
    if new := [i for i, key in enumerate(keys) if key not in kept]:
        at = torch.tensor(new, device=flat.device)
        tokens = flat.new_full((len(new), asked), -1)
        noted = None if promoted is None else tokens
        scores = exact_scores(increases, sublayers, rows[at], flat[at], max_bytes=max_bytes, promoted=noted)
        kept.update(zip((keys[i] for i in new), zip(scores.tolist(), tokens.tolist(), strict=True), strict=True))
    if promoted is not None:
        promoted.copy_(promoted.new_tensor([kept[key][1] for key in keys]))
    return increases[0].base.new_tensor([kept[key][0] for key in keys])
