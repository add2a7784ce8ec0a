"""What a prediction loses without the neurons of a page, measured by running its prompt again."""

import torch
from torch import Tensor

from tl_neuron_attr.evaluate.verify import Verified, without_each
from tl_neuron_attr.model.additive_checks import tolerance
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.dimensions import dtype_of
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neurons import Neurons


def measured(q: ScoredCache, neurons: Neurons) -> Verified | None:
    """Take neurons out of the run that made a cache, each alone and the first few together.

    Returns:
        The effects, in nats; None where the run can't be repeated: the cache does not hold its tokens, or the model no
        longer gives this prediction for them (it ran under hooks, with padding, or was edited since).
    """
    ids = q.stream.tokens()
    if ids is None:
        return None
    model, pos = q.stream.model, int(q.places.pos[0])
    at = torch.tensor([pos], device=ids.device)
    runs = AnswerRuns.of(model, ids[:, : pos + 1], q.target, at=at, contrast=q.contrast)
    found = without_each(model, runs, neurons, _zeroed(neurons, len(runs.target)))
    log_probs = q.log_probs()[0]
    cached = float(log_probs[q.target[0]] - (0 if q.contrast is None else log_probs[q.contrast[0]]))
    allowed = tolerance(dtype_of(model)) * (1 + abs(cached))
    return found if abs(found.log_prob - cached) <= _SEVERAL_SUMS * allowed else None


def _zeroed(neurons: Neurons, places: int) -> list[float | Tensor]:
    """Return what zeroing each neuron takes: its own coefficient from its head's output; all of an MLP neuron."""
    attn = neurons.site == SITES.index("attn")
    return [
        coefficient.expand(places) if is_attn else 0.0
        for is_attn, coefficient in zip(attn.tolist(), neurons.coefficient, strict=True)
    ]


_SEVERAL_SUMS = 10
"""A log-probability is a sum over the whole model; the tolerance is that of one sublayer."""
