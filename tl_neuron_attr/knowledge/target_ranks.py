"""The target's own logit and rank under each neuron: what the neuron's write adds to it, and how many tokens get more.

A neuron whose list of promoted tokens is noise often raises the target all the same, as the target stands far up in
the rest of the ranking: tenth of 50,000, say. Logits are those of the write through the frozen final norm, as in
:func:`~tl_neuron_attr.moved_tokens`.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.components import component_lists
from tl_neuron_attr.model.neuron_writes import neuron_writes
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.subkey_checks import require_same_cache
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.ranked_tokens import ranked_tokens
from tl_neuron_attr.results.neuron_columns import COLUMNS
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural


@typechecked
@torch.no_grad()
def target_ranks(
    cache: ActivationCache | ScoredCache,
    neurons: Neurons,
    target: Target | None = None,
    **scoring: Unpack[Scoring],
) -> Neurons:
    """Return value neurons with two more columns: ``target_logit`` and ``target_rank``.

    Their tables, frames and files have them too. Costs one product of the neurons' writes with ``W_U``.

    Args:
        cache: The cache the neurons were found in, or what :func:`~tl_neuron_attr.scored` or
            :func:`~tl_neuron_attr.answer` made of it, which has its own target and scoring.
        neurons: Value neurons, of one prompt or of a batch.
        target: The token followed, as in :func:`~tl_neuron_attr.scored`.
        **scoring: As in :func:`~tl_neuron_attr.scored`; a contrast changes nothing here.

    Returns:
        The neurons. ``.target_rank`` is 1 where no token's logit is raised more than the target's, and so on;
        ``.target_logit`` what the neuron adds to it. Of an answer, or of several right ones, both are those of the
        token that the neuron ranks highest, at the position before it.

    Raises:
        ValueError: If ``neurons`` is of another cache or position, or as :func:`~tl_neuron_attr.scored`.
        IndexError: If a neuron is not of this model, or a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.target_ranks(cache, tna.value_neurons(cache, " basketball", k=3), " basketball")
        >>> value.target_rank.tolist()  # of 1,065 tokens
        [[2, 8, 68]]
    """
    model = (cache.stream if isinstance(cache, ScoredCache) else cache).model
    component_lists(model, neurons)  # in range
    q = as_scored(cache, target, **scoring)
    batch = matched_batch(q, neurons)
    found = [_ranked(q, batch[result], result) for result in range(len(q))]
    logit, rank = (torch.stack(each) for each in zip(*found, strict=True))
    ranked = replace(batch, target_logit=logit, target_rank=rank)
    return ranked if neurons.batched else ranked[0]


def matched_batch(q: ScoredCache, neurons: Neurons) -> Neurons:
    """Return neurons as a batch of the prompts of a scored cache.

    Raises:
        ValueError: If there are more prompts in the one or the other.
        IndexError: If an attention neuron read a position that the cache does not have.
    """
    batch = neurons if neurons.batched else neurons.unsqueeze()
    if len(batch.score) != len(q):
        raise ValueError(
            f"neurons is of {plural(len(batch.score), 'prompt')} and cache of {len(q)}: take both from one run"
        )
    for label, source in zip(batch.flat_labels, batch.flat("source"), strict=True):
        within(f"source of {label}", max(0, source), q.stream.shape[1])
    return batch


def _ranked(q: ScoredCache, neurons: Neurons, result: int) -> tuple[Float[Tensor, "k"], Int[Tensor, "k"]]:
    """Return the target's logit and rank under the neurons of one prompt, where it ranks highest."""
    places = (q.result_of_place == result).nonzero()[:, 0]
    require_same_cache(q.stream, neurons, q.places.select(places.repeat_interleave(len(neurons))), "neurons")
    right = places if q.sums is None else places[q.sums.sign_of_place[places] > 0]  # those of a contrast left out
    k, n = len(neurons), len(right)
    columns: dict[str, Any] = {name: getattr(neurons, name).repeat(n) for name in COLUMNS}
    rows = right.repeat_interleave(k)
    vectors = torch.zeros(n * k, q.stream.shape[2], dtype=q.stream.dtype, device=right.device)
    for wrote in neuron_writes(q.stream, q.places, Neurons(**columns), rows):
        vectors[wrote.which] = wrote.vectors
    found = ranked_tokens(q.readout, vectors, 1, q.target[rows])
    rank, logit = found.rank.reshape(n, k), (found.logit * q.readout.gain[rows]).reshape(n, k)
    best = rank.argmin(0)[None]
    return logit.gather(0, best)[0], rank.gather(0, best)[0]
