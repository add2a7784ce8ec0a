"""Estimate what taking each neuron out would cost: all neurons at the price of a few forward passes.

The log-probability increase of paper 1 sees one sublayer's write; what later layers make of it, it does not see. A
gradient does. To first order, replacing an activation ``a`` by ``b`` changes log p(w) by

    (b - a) * d log p(w) / d a
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.effect_gradients import EffectGradients, effect_gradients
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.model.tokens import Tokens, token_batch
from tl_neuron_attr.results.effect_estimates import EffectEstimates

EstimateMethod = Literal["gradient", "integrated", "relevance"]
CountedPositions = Literal["all", "scored"]
EstimateBaseline = Literal["zero", "mean"]

PATH_STEPS = 8
"""Midpoints of the path of integrated gradients: the error of the rule falls with the square of their number."""


@typechecked
def estimate_effects(
    model: Any,
    tokens: Tokens,
    target: Target,
    *,
    method: EstimateMethod = "gradient",
    positions: CountedPositions = "all",
    baseline: EstimateBaseline = "zero",
    contrast: Target | None = None,
    pos: Pos = -1,
) -> EffectEstimates:
    """Estimate how much log p(target) each neuron is worth: what taking it out alone would cost, in nats.

    Args:
        model: The model, in float32 or float64.
        tokens: A prompt, its token ids, or a batch of prompts of one length.
        target: The token followed: an id, a string that is one token, a :class:`~tl_neuron_attr.Answer`, a set of right
            answers (:func:`~tl_neuron_attr.any_of`), or one of them for each prompt. An answer of several tokens is put
            behind ``pos``, and its positions follow those of the prompt, those of each answer after another's.
        method: ``"gradient"``: one forward and one backward pass. ``"relevance"``: the same with norms, attention
            patterns and gates linearised (:mod:`tl_neuron_attr.model.effect_gradients`). ``"integrated"``: MLP
            activations scaled from the baseline up, layer by layer (Dai et al., 2022): a pass per layer and step;
            attention neurons as in ``"gradient"``. A mixture of experts, a hybrid and Gemma 4 have no relevance.
        positions: ``"scored"`` counts only what a neuron wrote at the position scored.
        baseline: What a neuron is replaced by: zero, or its mean over the prompt's positions.
        contrast: If given, effects are on log p(target) - log p(contrast).
        pos: The position scored, one for all prompts or one each; the last by default.

    Returns:
        ``.mlp``: ``Float["*b layer pos d_mlp"]``, ``.attn``: ``Float["*b layer pos head d_head"]``, with sums over
        positions, and ``.top(k)`` as neurons; ``*b`` is absent for a single prompt.

    Raises:
        ValueError: If the prompt, target or position is invalid, the model is in half precision, or an integrated path
            is asked for with another baseline than zero.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> found = estimate_effects(tna.demo.load(), "Tim Duncan plays the sport of", " basketball")
        >>> best = found.top(1, sites=["mlp"])
        >>> best.labels, f"{float(best.score[0]):.3f} nats"
        (['L1N509'], '0.016 nats')
    """
    if method == "integrated" and baseline != "zero":
        raise ValueError(f"method='integrated' starts from zero, got baseline={baseline!r}: use baseline='zero'")
    ids, batched = token_batch(model, tokens)
    at = from_start(pos, *ids.shape).to(ids.device).expand(len(ids))
    runs = AnswerRuns.of(model, ids, target, at=at, contrast=contrast)
    found = effect_gradients(model, runs, rule="relevance" if method == "relevance" else "gradient")
    gradients = found.mlp_gradient
    if method == "integrated":
        gradients = [_mean_gradient(model, runs, layer) for layer in range(model.cfg.n_layers)]
    return _estimates(found, gradients, runs, positions == "scored", baseline, method, batched)


def _mean_gradient(model: Any, runs: AnswerRuns, layer: int) -> Float[Tensor, "row pos d_mlp"]:
    """Return a layer's gradient averaged over midpoints of the path from zero to its activations."""
    steps = [
        effect_gradients(model, runs, scaled={layer: (step + 0.5) / PATH_STEPS}).mlp_gradient[layer]
        for step in range(PATH_STEPS)
    ]
    return torch.stack(steps).mean(0)


def _stacked(values: list[Tensor]) -> Tensor:
    """Return values of all layers in one tensor, zeros where a layer has fewer neurons or heads."""
    sizes = torch.tensor([each.shape for each in values]).amax(0).tolist()
    whole = values[0].new_zeros(sizes[0], len(values), *sizes[1:])
    for layer, each in enumerate(values):
        whole[(slice(None), layer, *(slice(size) for size in each.shape[1:]))] = each
    return whole


def _estimates(
    found: EffectGradients,
    mlp_gradient: list[Tensor],
    runs: AnswerRuns,
    only_scored: bool,
    baseline: EstimateBaseline,
    method: str,
    batched: bool,
) -> EffectEstimates:
    scored = torch.zeros_like(runs.tokens, dtype=torch.bool)
    scored[runs.places.row, runs.places.pos] = True

    def effects(activations: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        away = [_from_mean(a, runs) if baseline == "mean" else a for a in activations]
        return [
            a * g * (scored.reshape(*scored.shape, *[1] * (a.ndim - 2)) if only_scored else 1)
            for a, g in zip(away, gradients, strict=True)
        ]

    def stacked(values: list[Tensor], added: bool) -> Tensor:
        whole = _stacked([_by_prompt(value, runs, added=added) for value in values])
        return whole if batched else whole[0]

    grids = (effects(found.mlp, mlp_gradient), effects(found.attn, found.attn_gradient), found.mlp, found.attn)
    mlp, attn, mlp_activation, attn_activation = (stacked(grid, i < 2) for i, grid in enumerate(grids))
    log_prob = found.log_prob if batched else found.log_prob[0]
    return EffectEstimates(mlp, attn, mlp_activation, attn_activation, log_prob, method, found.experts)


def _from_mean(activation: Float[Tensor, "row pos *n"], runs: AnswerRuns) -> Float[Tensor, "row pos *n"]:
    """Return how far activations are from their mean over the prompt's positions."""
    means = [values[:length].mean(0) for values, length in zip(activation, runs.beginnings, strict=True)]
    return activation - torch.stack(means)[:, None]


def _by_prompt(values: Float[Tensor, "row pos *n"], runs: AnswerRuns, *, added: bool) -> Float[Tensor, "prompt m *n"]:
    """Return values with one row per prompt: its own positions, then those of its answers, one after another.

    At the prompt's own positions, those of its rows are added up, or are the same.
    """
    rows: dict[int, Tensor] = {}
    for row, (prompt, start, end) in enumerate(zip(runs.prompt, runs.beginnings, runs.lengths, strict=True)):
        before = rows.get(prompt)
        if before is None:
            rows[prompt] = values[row, :end]
        else:
            shared = before[:start] + values[row, :start] if added else before[:start]
            rows[prompt] = torch.cat([shared, before[start:], values[row, start:end]])
    return torch.nn.utils.rnn.pad_sequence([rows[prompt] for prompt in sorted(rows)], batch_first=True)
