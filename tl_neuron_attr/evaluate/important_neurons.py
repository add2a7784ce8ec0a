"""The neurons that matter to a prediction: candidates by several scores, each really taken out, the largest loss first.

The log-probability increase says what a neuron writes; later layers act on it, so that on real models it orders real
effects only loosely (docs/effects.md). Here it is one of three ways to become a candidate, and the measured effect
decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.evaluate.verify import joint_effects, verify
from tl_neuron_attr.knowledge.value_neurons import neurons_of
from tl_neuron_attr.knowledge.vocabulary import with_text
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.answer_tokens import Answer, AnyOf
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.effect_gradients import Rule, effect_gradients, follows_relevance
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.scored import scored, scored_runs
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.targets import Target, has_answers
from tl_neuron_attr.model.tokens import Tokens, one_prompt
from tl_neuron_attr.numerics.exact_scores import ResultPlaces
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import SITES, Sublayer
from tl_neuron_attr.numerics.topk import TopK, certified_topk
from tl_neuron_attr.results.hardly_predicted import hardly_predicted
from tl_neuron_attr.results.intervals import interval
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

CANDIDATES = 100
"""Neurons each score proposes: to take out 100 costs about two forward passes of a short prompt."""

OtherAnswer = str | int | Answer | AnyOf
"""What another prompt asks for: a token, an answer, or a set of right ones."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class ImportantNeurons(PrintsAsTable):
    """The neurons whose removal costs a prediction most.

    Attributes:
        neurons: The neurons, largest measured effect first: ``.score`` is the log-probability increase (paper 1,
            Eq. 13), ``.effect`` what taking the neuron out costs, both in nats.
        log_prob: The untouched log-probability, less the contrast's if there is one.
        joint: By how many of the first neurons were taken out together, how much that costs, in nats.
        tried: How many neurons were taken out.
        elsewhere: What taking all the neurons out costs each reference prompt's own answer; None without reference
            prompts.
        tokens: How many tokens the longest answer followed has.
        contrasted: Whether the target was compared with a contrast.
    """

    neurons: Neurons
    log_prob: float
    joint: dict[int, float]
    tried: int
    elsewhere: tuple[float, ...] | None = None
    tokens: int = 1
    contrasted: bool = False

    @property
    def specific(self) -> tuple[float, float, float]:
        """What the neurons are worth here beyond what they are worth elsewhere, with a 95 % bootstrap interval.

        Raises:
            ValueError: If no reference prompts were given.
        """
        if self.elsewhere is None:
            raise ValueError("there are no reference prompts: pass specificity= to important_neurons")
        return interval(pd.Series([self.joint[len(self.neurons)] - loss for loss in self.elsewhere]))

    def table(self) -> Table:
        """Return the neurons with score and effect, marked where the two disagree in sign."""
        found = self.neurons.table()
        score, effect = found.headings.index("score"), found.headings.index("effect")
        signs = ["differ" if row[score] * row[effect] < 0 else "" for row in found.rows]
        rows = [(*row[: effect + 1], sign, *row[effect + 1 :]) for row, sign in zip(found.rows, signs, strict=True)]
        together = self.joint[len(self.neurons)]
        measured = "log p less the contrast's" if self.contrasted else "log p"
        caption = (
            f"in nats; {plural(self.tried, 'neuron')} tried; together these {len(self.neurons)} cost {together:.2f}, "
            f"{measured} {self.log_prob:.2f} untouched"
        )
        if not self.contrasted:
            caption = f"{caption}\n{hardly_predicted(self.log_prob, tokens=self.tokens)}".rstrip()
        return Table((*found.headings[: effect + 1], "signs", *found.headings[effect + 1 :]), rows, caption)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron, with its score and its measured effect."""
        return self.neurons.to_frame()


@typechecked
@torch.no_grad()
def important_neurons(
    model: Any,
    tokens: Tokens,
    target: Target,
    k: int = 30,
    *,
    candidates: int = CANDIDATES,
    specificity: Sequence[tuple[str, OtherAnswer]] | None = None,
    contrast: Target | None = None,
    pos: Pos = -1,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> ImportantNeurons:
    """Find the ``k`` neurons whose removal costs log p(target) most, out of candidates that are all taken out.

    Candidates are the best ``candidates`` neurons by each of three scores: gradient times activation, the relevance
    rule (not on hybrids), and the certified log-probability increase of paper 1. MLP neurons are taken out at every
    position, attention neurons at their source. Where a prediction is almost certain, no single neuron costs much: look
    at ``joint``, or give a ``contrast``.

    Args:
        model: The model, in float32 or float64.
        tokens: One prompt: its text or token ids.
        target: The token followed: an id, or a string that is one token; a :class:`~tl_neuron_attr.Answer`, put behind
            ``pos``; or a set of right answers (:func:`~tl_neuron_attr.any_of`).
        k: How many neurons.
        candidates: How many neurons each score proposes.
        specificity: Other prompts, of any length, and their own answers, on which the same neurons are taken out; two
            at least, since a single one has no interval.
        contrast: If given, effects are on log p(target) - log p(contrast).
        pos: The position scored.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar, once it takes more than a moment.

    Raises:
        ValueError: If ``k`` is not between 1 and the number of candidates tried, the prompt or target is invalid,
            ``specificity`` holds fewer than two prompts or an invalid one, or the model is in half precision.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model, prompt = tna.demo.load(), "Tim Duncan plays the sport of"
        >>> found = important_neurons(model, prompt, " basketball", k=5, candidates=20, progress=False)
        >>> found.neurons.labels[0], f"{found.neurons.effect[0]:.1f} nats alone, {found.joint[5]:.1f} with four others"
        ('L1N287', '0.3 nats alone, 1.0 with four others')
    """
    if specificity is not None:
        _require_references(model, specificity)
    ids = one_prompt(model, tokens)
    runs = AnswerRuns.of(model, ids, target, at=from_start(pos, *ids.shape), contrast=contrast)
    if has_answers(target, contrast):
        q = scored_runs(model, runs, SITES, max_bytes=max_bytes)
    else:  # a contrast of two tokens is linear, and needs no search
        _, cache = model.run_with_cache(ids, names_filter=needed_by(SITES, model))
        q = scored(cache, target, pos=pos, contrast=contrast, model=model, max_bytes=max_bytes)
    sublayers = list(q.stream.sublayers(q.places, SITES))
    if candidates < 1:
        raise ValueError(f"candidates must be 1 or more, got {candidates}")
    tried = _candidates(q, sublayers, runs, candidates, max_bytes)
    if not 1 <= k <= len(tried.score):
        raise ValueError(f"k must be between 1 and the {len(tried.score)} candidates, got {k}: raise candidates=")
    found = verify(model, ids, tried, target, contrast=contrast, pos=pos, max_bytes=max_bytes, progress=progress)
    effect = found.neurons.effect
    assert effect is not None
    best = found.neurons.pick(effect.sort(descending=True, stable=True).indices[:k].tolist())
    joint = joint_effects(model, runs, best, max_bytes=max_bytes)
    elsewhere = None
    if specificity is not None:
        elsewhere = tuple(_loss(model, text, answer, best, max_bytes) for text, answer in specificity)
    return ImportantNeurons(
        with_text(best, q.stream), found.log_prob, joint, len(tried.score), elsewhere,
        tokens=runs.most_tokens, contrasted=contrast is not None,
    )  # fmt: skip


def _require_references(model: Any, specificity: Sequence[tuple[str, OtherAnswer]]) -> None:
    """Refuse reference prompts before anything is run.

    Raises:
        ValueError: If there are fewer than two, or a prompt or its answer is invalid.
        IndexError: If a token id is out of range.
    """
    if len(specificity) < 2:
        raise ValueError(
            f"specificity holds {plural(len(specificity), 'prompt')}, and an interval needs two or more: give more "
            "prompts with their answers, or None"
        )
    for i, (text, answer) in enumerate(specificity):
        try:
            ids = one_prompt(model, text)
            AnswerRuns.of(model, ids, answer, at=from_start(-1, *ids.shape))
        except (ValueError, IndexError) as error:
            raise type(error)(f"specificity[{i}]: {error}") from error


def _candidates(q: ScoredCache, sublayers: Sequence[Sublayer], runs: AnswerRuns, n: int, max_bytes: int) -> Neurons:
    """Return the best ``n`` neurons by each score, each once, with their exact log-probability increase."""
    increases = q.increases(SITES)
    n = min(n, q.stream.neuron_count(SITES))
    chosen = [certified_topk(increases, sublayers, n, max_bytes=max_bytes, sums=q.sums).flat[0]]
    known = follows_relevance(q.stream.model)
    rules: tuple[Rule, ...] = ("gradient", "relevance") if known else ("gradient",)
    chosen += [_estimates(q, sublayers, runs, rule).topk(n).indices for rule in rules]
    flat = torch.cat(chosen).unique()
    scores, by_place = ResultPlaces.of(increases, sublayers, 0, q.sums).scored(increases, flat, max_bytes=max_bytes)
    by_token = None if q.sums is None else by_place
    found = neurons_of(q, sublayers, TopK(flat[None], scores[None], torch.zeros(1, dtype=torch.long), None, by_token))
    return replace(found, evaluated=None)[0]


def _estimates(
    q: ScoredCache, sublayers: Sequence[Sublayer], runs: AnswerRuns, rule: Rule
) -> Float[Tensor, "neuron_source"]:
    """Return the estimated effect of every neuron: MLP neurons at all positions, attention neurons at each source."""
    found = effect_gradients(q.stream.model, runs, rule=rule)
    at = dict(zip(zip(q.places.row.tolist(), q.places.pos.tolist(), strict=True), range(len(q.places)), strict=True))
    (row, pos), places = map(list, zip(*at, strict=True)), list(at.values())
    estimates = [
        (found.attn_gradient[s.layer][row, pos].flatten(1)[..., None] * s.coefficients[places]).sum(0)
        if s.site == "attn"
        else (found.mlp[s.layer] * found.mlp_gradient[s.layer]).sum((0, 1))[:, None]
        for s in sublayers
    ]
    return torch.cat([part.flatten() for part in estimates])


def _loss(model: Any, text: str, answer: OtherAnswer, neurons: Neurons, max_bytes: int) -> float:
    """Return what taking the neurons out costs another prompt's answer; attention neurons at every source there."""
    everywhere = replace(neurons, source=torch.full_like(neurons.source, -1), text=None)
    found = verify(model, text, everywhere, answer, max_bytes=max_bytes, progress=False)
    return found.joint[len(neurons)]
