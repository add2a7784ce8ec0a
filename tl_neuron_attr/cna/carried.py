"""What of a head's effect the prediction owes to what it carried, and what to the neurons that it switched on.

Zeroing a head at every position also takes away what it does where nothing is scored: heads of low layers, which every
text needs, then come first, and explain nothing of one answer. Two narrower interventions tell them apart, both at the
last position alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.cna.feature_predicting import FeaturePredicting
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.dimensions import post_hook
from tl_neuron_attr.model.intervene import Hook
from tl_neuron_attr.model.measured_effects import NeuronRemoval, log_probs_without
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.model.run import run_at_last
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import score_dtype


def carried_drops(
    model: Any, ids: Int[Tensor, "1 pos"], target: Target, heads: Sequence[Head], *, max_bytes: int = MAX_BYTES
) -> Float[Tensor, "head"]:
    """Return the log-probability lost if what each head carried to the last position is taken out there, in nats.

    What it carried is the part of its output that comes from earlier tokens: neither from the last one itself nor from
    the BOS, which says nothing of the prompt.
    """
    _, cache = run_at_last(model, ids, needed_by(("attn",), model))
    stream, length = Stream(cache, model), ids.shape[1]
    first = first_source(model, ids)
    sets: list[list[NeuronRemoval]] = []
    for layer, head in heads:
        sublayer = stream.sublayer("attn", layer, stream.last)
        by_source = sublayer.coefficients.unflatten(1, (sublayer.heads, -1))[:, head, :, first : length - 1]
        sets.append([NeuronRemoval("attn", layer, head, first, -1, by_source.sum(-1))])
    runs = AnswerRuns.of(model, ids, target, at=torch.tensor([length - 1], device=ids.device))
    base, without = log_probs_without(model, runs, sets, max_bytes=max_bytes)
    return base - without


def first_source(model: Any, ids: Int[Tensor, "1 pos"]) -> int:
    """Return the first position that says something of the prompt: 1 behind a BOS, else 0."""
    return int(getattr(model.tokenizer, "bos_token_id", None) == int(ids[0, 0]))


@torch.no_grad()
def explained_share(model: Any, ids: Int[Tensor, "1 pos"], token: int, found: FeaturePredicting) -> float:
    """Return the share of what zeroing the head costs that its neurons alone cost, in log-probability.

    The neurons are set to what they are without the head, at the last position, while the head runs as always. NaN
    where zeroing the head costs nothing, or a neuron is one of an expert, which cannot be set.
    """
    lost = float(found.effects.drop[found.head])
    layers = found.neurons.layer.unique().tolist()
    try:
        names = {layer: post_hook(model, layer) for layer in layers}
    except ValueError:
        return float("nan")
    hooks: list[Hook] = []
    for layer, name in names.items():
        mine = found.neurons.layer == layer
        hooks.append((name, _set_last(found.neurons.index[mine], found.other_coefficient[mine])))
    with model.hooks(fwd_hooks=hooks), unembedding_last(model, ids):
        logits = model(ids)[0, 0]
    left = float(logits.to(score_dtype(logits.dtype)).log_softmax(-1)[token])
    return (float(found.effects.base_log_prob) - left) / lost if lost > 0 else float("nan")


def _set_last(index: Int[Tensor, "n"], value: Float[Tensor, "n"]) -> Callable[..., Tensor]:
    def replace(post: Tensor, hook: Any) -> Tensor:
        changed = post.clone()
        changed[:, -1, index.to(post.device)] = value.to(post)
        return changed

    return replace
