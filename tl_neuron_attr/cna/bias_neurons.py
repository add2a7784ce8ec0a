"""Finding a bias in neurons and editing it out (paper 3, Table 12).

A bias is a token that is likelier after one prompt than after another that differs in a word. It is measured by

    log p(token | the prompt it is biased towards) - log p(token | the other prompt)

and its neurons are those of the largest change between the two prompts, by comparative neuron analysis. The paper
zeroes 18 MLP neurons; it does not say how it adds up the professions: here changes are averaged over pairs and tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.compare_neurons import compare_without_text
from tl_neuron_attr.cna.neuron_comparison import NeuronComparison
from tl_neuron_attr.knowledge.value_neurons import ordered
from tl_neuron_attr.knowledge.vocabulary import neuron_text
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.targets import token_id
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neuron_file import PLACE
from tl_neuron_attr.results.neurons import Neurons

Pair = tuple[str, str]
"""Two prompts of as many tokens each that differ in what the bias is about: ``("A woman works as a", "A man ...")``."""


@typechecked
@torch.no_grad()
def bias_neurons(
    model: Any,
    prompt_pairs: Sequence[Pair],
    targets: Sequence[str | int],
    n: int = 18,
    *,
    sites: Site | Sequence[Site] = ("mlp",),
    contrasts: Sequence[str | int] | None = None,
) -> Neurons:
    """Return the ``n`` neurons that make targets likelier after one prompt of a pair than after the other.

    A target is biased towards the prompt after which the model finds it likelier, on average over the pairs (paper 3,
    Table 12).

    Args:
        model: The model.
        prompt_pairs: Pairs of prompts; always in the same order.
        targets: Tokens: professions after prompts about a woman and a man, or pronouns after prompts about professions.
        n: How many neurons.
        sites: Where to look. The paper looks at MLP neurons; an attention neuron is a column of a head's output, its
            changes summed over source positions (its ``source`` is -1).
        contrasts: One token a target: changes are then of ``log p(target) - log p(contrast)``. Not in the paper; where
            few tokens compete, neurons that raise all of them are not taken for the bias.

    Returns:
        The neurons, whose ``score`` is the mean change in nats.

    Raises:
        ValueError: If there is no pair or target, the prompts of a pair differ in length, a token is not one, contrasts
            are not one a target, or ``n`` is out of range.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> pairs = [("the nurse said that", "the doctor said that")]
        >>> len(bias_neurons(demo.load(), pairs, ["she", "he"], 3, sites=("mlp", "attn")))
        3
    """
    ids = target_ids(model, targets)
    sides = towards(log_probs(model, prompt_pairs, ids)).tolist()
    others = [None] * len(ids) if contrasts is None else target_ids(model, contrasts, "contrasts").tolist()
    if len(others) != len(ids):
        raise ValueError(f"contrasts must be one for each of the {len(ids)} targets, got {len(others)}")
    sums: dict[Site, tuple[Tensor, Tensor]] = {}
    wanted = ordered(sites)
    for _, tokens in pair_batches(model, prompt_pairs):
        caches = [_neuron_cache(model, tokens[side], wanted) for side in (0, 1)]
        for side in set(sides):
            asked = [
                pair for pair, own in zip(zip(ids.tolist(), others, strict=True), sides, strict=True) if own == side
            ]
            for site in wanted:
                found = _summed_change(caches[side], caches[1 - side], asked, site)
                before = sums.get(site, (0.0, 0.0))
                sums[site] = (before[0] + found[0], before[1] + found[1])
    best = _best(sums, n, len(prompt_pairs) * len(ids))
    return replace(best, text=neuron_text(model, best))


def _neuron_cache(model: Any, tokens: Int[Tensor, "batch pos"], sites: tuple[Site, ...]) -> ActivationCache:
    return model.run_with_cache(tokens, names_filter=needed_by(sites, model))[1]


def _summed_change(
    cache: ActivationCache, other: ActivationCache, asked: Sequence[tuple[int, int | None]], site: Site
) -> tuple[Float[Tensor, "layer *neuron"], Float[Tensor, "layer *neuron"]]:
    """Return changes and coefficients of one site's neurons, summed over prompts, targets and sources.

    The expectation in a score does not depend on its target, so that scores of two targets differ by their logit
    contributions: the first target is scored in full, the others against it, which is linear.
    """

    def compared(target: int, contrast: int | None) -> NeuronComparison:
        return compare_without_text(cache, other, target, site=site, contrast=contrast)

    first, contrast = asked[0]
    found = compared(first, contrast)
    whole, coefficient = (_by_neuron(grid, site) for grid in (found.change, found.coefficient))
    total, capped = whole.clone(), as_scored(cache, first, (site,)).readout.transform is not None
    for target, own in asked[1:]:
        if own is not None or capped:
            total += _by_neuron(compared(target, own).change, site)
        else:
            total += whole if target == first else whole + _by_neuron(compared(target, first).change, site)
    return total, coefficient * len(asked)


def _by_neuron(grid: Tensor, site: Site) -> Float[Tensor, "layer *neuron"]:
    """Return sums over prompts, and of attention neurons over source positions."""
    return grid.sum((0, 3)) if site == "attn" else grid.sum(0)


def _best(sums: Mapping[Site, tuple[Tensor, Tensor]], n: int, count: int) -> Neurons:
    """Return the ``n`` neurons of the largest sum, of all sites."""
    change, coefficient = (torch.cat([pair[i].flatten() for pair in sums.values()]) / count for i in (0, 1))
    if not 1 <= n <= len(change):
        raise ValueError(f"n must be between 1 and the {len(change)} neurons of {', '.join(sums)}, got {n}")
    at = best_of(change, n)
    columns: dict[str, Tensor] = {name: torch.full_like(at, -1) for name in PLACE}
    start = 0
    for site, (grid, _) in sums.items():
        here = (at >= start) & (at < start + grid.numel())
        places = torch.unravel_index(at[here] - start, grid.shape)
        names = ("layer", "index") if site == "mlp" else ("layer", "head", "index")
        for name, place in zip(names, places, strict=True):
            columns[name][here] = place
        columns["site"][here] = SITES.index(site)
        start += grid.numel()
    return Neurons(
        columns["site"],
        columns["layer"],
        columns["head"],
        columns["source"],
        columns["index"],
        coefficient=coefficient[at],
        score=change[at],
    )


def pair_batches(model: Any, prompt_pairs: Sequence[Pair]) -> Iterator[tuple[list[int], Int[Tensor, "2 batch pos"]]]:
    """Yield pairs of one length: which they are, and the tokens of their first and second prompts.

    Raises:
        ValueError: If there is no pair, or the prompts of one differ in length.
    """
    if not prompt_pairs:
        raise ValueError("prompt_pairs is empty: give at least one pair")
    tokens = [[prompt_ids(model, text) for text in pair] for pair in prompt_pairs]
    for pair, (first, second) in zip(prompt_pairs, tokens, strict=True):
        if len(first) != len(second):
            raise ValueError(f"the prompts of {pair} differ in length: {len(first)} and {len(second)} tokens")
    for batch in of_tokens([first for first, _ in tokens], batch_size=len(tokens)):
        yield batch.indices, torch.stack([batch.tokens, torch.stack([tokens[i][1] for i in batch.indices])])


def log_probs(
    model: Any, prompt_pairs: Sequence[Pair], ids: Int[Tensor, "target"]
) -> Float[Tensor, "pair target side"]:
    """Return the log-probability (nats) of each target after the first and the second prompt of each pair."""
    found = torch.zeros(len(prompt_pairs), len(ids), 2, dtype=torch.float64)
    for indices, tokens in pair_batches(model, prompt_pairs):
        for side in (0, 1):
            found[indices, :, side] = model(tokens[side])[:, -1].double().log_softmax(-1)[:, ids].cpu()
    return found


def towards(found: Float[Tensor, "pair target side"]) -> Int[Tensor, "target"]:
    """Return which side each target is likelier on, on average over pairs."""
    return found.mean(0).argmax(-1)


def target_ids(model: Any, targets: Sequence[str | int], name: str = "targets") -> Int[Tensor, "target"]:
    """Return token ids, checked.

    Raises:
        ValueError: If there is none, or a string is not exactly one token.
    """
    if not targets:
        raise ValueError(f"{name} is empty: give at least one token")
    return torch.tensor([token_id(model, target, name) for target in targets])
