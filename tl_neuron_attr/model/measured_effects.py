"""What a prediction loses when neurons are really taken out: runs with some neurons' activations replaced.

An MLP neuron is replaced at every position, as setting its row of ``W_out`` to zero would. An attention neuron that
reads one source is taken out there alone, at the position scored, of an answer at all that predict its tokens; one
without a source, at every position. Layers below the lowest neuron of a run are not run again
(:mod:`tl_neuron_attr.model.rerun`). A head, or a whole sublayer, is taken out by taking out all of its neurons: its
bias stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.dimensions import d_mlp, device_of, dtype_of, head_sizes, post_hook
from tl_neuron_attr.model.expert_hooks import Hook, expert_hooks
from tl_neuron_attr.model.rerun import KeptRun, require_finite_logits, runs_within
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import Site, score_dtype


@dataclass(frozen=True)
class NeuronRemoval:
    """One neuron, head or whole sublayer taken out of a run.

    Attributes:
        site: ``"attn"`` or ``"mlp"``.
        layer: The block.
        head: The head of an attention neuron, or the head; -1 for MLPs, and for all heads.
        source: The source position it is taken out at; -1 for all.
        index: The dimension of the head, or the neuron of the MLP; -1 for all.
        value: What the activation becomes, one number or one per neuron; for a single source, what is subtracted from
            the head's output, one number or one per place scored.
    """

    site: Site
    layer: int
    head: int
    source: int
    index: int
    value: float | Tensor


@torch.no_grad()
def log_probs_without(
    model: Any,
    runs: AnswerRuns,
    sets: Sequence[Sequence[NeuronRemoval]],
    *,
    max_bytes: int = MAX_BYTES,
    progress: str = "",
) -> tuple[Float[Tensor, ""], Float[Tensor, "set"]]:
    """Return log p of what one prompt's runs follow, untouched and with each set of neurons taken out, in nats.

    Args:
        model: The model.
        runs: One prompt with what is followed.
        sets: The neurons to take out together.
        max_bytes: A cap on the working set.
        progress: What a progress bar says; empty for none.

    Raises:
        ValueError: If the logits hold NaN or Inf, or a neuron of an expert is to become anything but zero.
    """
    by_row = [_of_row(model, runs, row, sets, max_bytes, progress) for row in range(len(runs.lengths))]
    order = torch.cat([runs.places_in(row) for row in range(len(by_row))]).argsort()
    base = torch.cat([base for base, _ in by_row])[order]
    without = torch.cat([without for _, without in by_row], dim=1)[:, order]
    return runs.sums.log_probs(base)[0], runs.sums.log_probs(without.T)[0]


def _of_row(
    model: Any,
    runs: AnswerRuns,
    row: int,
    sets: Sequence[Sequence[NeuronRemoval]],
    max_bytes: int,
    progress: str,
) -> tuple[Float[Tensor, "place"], Float[Tensor, "set place"]]:
    """Return the log-probabilities of the tokens followed in one row, untouched and with each set taken out."""
    tokens, which = runs.row(row)[None], runs.places_in(row)
    pos, at = runs.places.pos[which].unique(return_inverse=True)
    lowest = [min((r.layer for r in removals), default=model.cfg.n_layers) for removals in sets]
    order = sorted((i for i in range(len(sets)) if sets[i]), key=lambda i: lowest[i])
    step = runs_within(model, tokens.shape[1], max_bytes, len(pos))
    groups = [order[i : i + step] for i in range(0, len(order), step)]
    kept = KeptRun(model, tokens, pos[None], layers=sorted({lowest[group[0]] for group in groups}))

    def followed(logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, "row place"]:
        log_p = logits.to(score_dtype(logits.dtype)).log_softmax(-1)
        return log_p[:, at.to(log_p.device), runs.target[which].to(log_p.device)]

    base = followed(kept.logits)[0]
    found = base.repeat(len(sets), 1)
    with tqdm(total=len(order), desc=progress, unit="run", disable=not progress, delay=2) as bar:
        for group in groups:
            with model.hooks(fwd_hooks=_removing(model, [sets[i] for i in group], runs.places.pos[which], which)):
                logits = kept.from_layer(lowest[group[0]], torch.zeros(len(group), dtype=torch.long))
            require_finite_logits(model, logits)
            found[group] = followed(logits)
            bar.update(len(group))
    return base, found


def _removing(
    model: Any, sets: Sequence[Sequence[NeuronRemoval]], pos: Int[Tensor, "n"], places: Int[Tensor, "n"]
) -> list[Hook]:
    """Return the hooks under which row ``i`` of a run lacks the neurons of ``sets[i]``; ``places`` are at ``pos``."""
    by_place: dict[tuple[Site, int], list[tuple[int, NeuronRemoval]]] = {}
    for row, removals in enumerate(sets):
        for removal in removals:
            by_place.setdefault((removal.site, removal.layer), []).append((row, removal))
    hooks: list[Hook] = []
    for (site, layer), removals in by_place.items():
        if site == "attn":
            of_heads = _of_heads(head_sizes(model, layer), removals, pos, places)
            hooks.append((f"blocks.{layer}.attn.hook_z", of_heads))
        elif (experts := block_weights(model, layer).live_experts) is not None:
            found = expert_hooks(experts, _kept_factors(model, layer, removals, len(sets)))
            hooks += [(f"blocks.{layer}.{name}", hook) for name, hook in found]
        else:
            hooks.append((post_hook(model, layer), _of_mlp(removals)))
    return hooks


def _kept_factors(
    model: Any, layer: int, removals: Sequence[tuple[int, NeuronRemoval]], rows: int
) -> Float[Tensor, "row neuron"]:
    """Return what each neuron of a mixture is multiplied with in each row: 0 where it is taken out, 1 elsewhere."""
    factor = torch.ones(rows, d_mlp(model, layer), dtype=dtype_of(model), device=device_of(model))
    for row, removal in removals:
        if isinstance(removal.value, Tensor) or removal.value != 0:
            raise ValueError(f"layer {layer} is a mixture of experts, whose neurons can become zero alone")
        factor[row, slice(None) if removal.index < 0 else removal.index] = 0
    return factor


def _of_mlp(removals: Sequence[tuple[int, NeuronRemoval]]) -> Callable[..., Tensor]:
    single = [(row, r) for row, r in removals if r.index >= 0]
    rows, index = [row for row, _ in single], [r.index for _, r in single]

    def replace(post: Tensor, hook: Any) -> Tensor:
        post = post.clone()
        for row, r in removals:
            if r.index < 0:
                post[row] = _like(r.value, post)
        if single:
            post[rows, :, index] = torch.tensor([r.value for _, r in single]).to(post)[:, None]
        return post

    return replace


def _of_heads(
    sizes: tuple[int, int],
    removals: Sequence[tuple[int, NeuronRemoval]],
    pos: Int[Tensor, "n"],
    places: Int[Tensor, "n"],
) -> Callable[..., Tensor]:
    def replace(heads: Tensor, hook: Any) -> Tensor:
        z = heads.clone().reshape(*heads.shape[:2], *sizes)  # latent attention's hook_z may have heads of other sizes
        here, which = pos.to(z.device), places.to(z.device)
        for row, r in removals:
            head, index = (slice(None) if i < 0 else i for i in (r.head, r.index))
            if r.source < 0:
                z[row, :, head, index] = _like(r.value, z)
            else:
                z[row, here, head, index] -= r.value.to(z)[which] if isinstance(r.value, Tensor) else r.value
        return z.reshape(heads.shape)

    return replace


def _like(value: float | Tensor, activation: Tensor) -> float | Tensor:
    return value.to(activation) if isinstance(value, Tensor) else value
