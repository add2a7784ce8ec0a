"""Measure what a prediction loses when neurons are really taken out, one by one and together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.measured_effects import NeuronRemoval, log_probs_without
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.reference_activations import Unit, source_values, unit_activations
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.model.tokens import Tokens, one_prompt
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd

Replacement = Literal["zero", "mean", "resample"]
JOINT = (1, 3, 10, 30, 100, 300)
"""How many of the first neurons are taken out together: about equal steps on a logarithmic scale."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Verified(PrintsAsTable):
    """Neurons with the effect of taking each out alone, and of taking the first few out together.

    Attributes:
        neurons: The neurons, with ``.effect``: how much log-probability taking each out alone costs, in nats.
        log_prob: The untouched log-probability.
        joint: By how many of the first neurons were taken out together, how much that costs, in nats.
    """

    neurons: Neurons
    log_prob: float
    joint: dict[int, float]

    def table(self) -> Table:
        """Return the joint effects."""
        rows = [(n, effect, self.log_prob - effect) for n, effect in self.joint.items()]
        return Table(("first neurons out", "log-probability lost", "left"), rows, f"in nats, of {self.log_prob:.2f}")

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per neuron, with its score and its measured effect."""
        return self.neurons.to_frame()


@typechecked
def verify(
    model: Any,
    tokens: Tokens,
    neurons: Neurons,
    target: Target,
    *,
    baseline: Replacement = "zero",
    reference: Sequence[str] | None = None,
    contrast: Target | None = None,
    pos: Pos = -1,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> Verified:
    """Take each neuron out alone and the first 1, 3, 10, 30, ... together, and measure what log p(target) loses.

    MLP neurons are taken out at every position, attention neurons at the source they were found at, for the position
    scored; of an answer, in one run for all positions that predict its tokens.

    Args:
        model: The model.
        tokens: One prompt: its text or token ids.
        neurons: The neurons, of that prompt.
        target: The token followed: an id, or a string that is one token; a :class:`~tl_neuron_attr.Answer`, put behind
            ``pos``; or a set of right answers (:func:`~tl_neuron_attr.any_of`).
        baseline: What a neuron's activation becomes: ``"zero"``; ``"mean"``, its mean over the positions of
            ``reference`` prompts; ``"resample"``, what it was at a random one. Of an attention neuron at a source it is
            the value read there that is replaced, and the attention to it stays.
        reference: Prompts for the baseline; by default the prompt itself.
        contrast: If given, effects are on log p(target) - log p(contrast).
        pos: The position scored.
        seed: Of the positions drawn.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar, once it takes more than a moment.

    Raises:
        ValueError: If neurons are of several prompts, or ``reference`` is empty or comes with ``baseline="zero"``.
        IndexError: If a neuron, position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> value = tna.value_neurons(cache, " basketball", k=10)[0]
        >>> found = verify(model, "Tim Duncan plays the sport of", value, " basketball", progress=False)
        >>> found.joint[10] > float(found.neurons.effect[0]) > 0
        True
    """
    ids = one_prompt(model, tokens)
    if neurons.batched and len(neurons.score) > 1:
        raise ValueError(f"neurons are of {len(neurons.score)} prompts: take one prompt's, neurons[i]")
    one = neurons[0] if neurons.batched else neurons
    runs = AnswerRuns.of(model, ids, target, at=from_start(pos, *ids.shape), contrast=contrast)
    values = _values(model, runs, one, baseline, references(model, ids, baseline, reference), seed)
    return without_each(model, runs, one, values, max_bytes=max_bytes, progress="taking out" if progress else "")


def without_each(
    model: Any,
    runs: AnswerRuns,
    neurons: Neurons,
    values: Sequence[float | Tensor],
    *,
    max_bytes: int = MAX_BYTES,
    progress: str = "",
) -> Verified:
    """Return what :func:`verify` does, where it is known what each activation becomes.

    Args:
        model: The model.
        runs: One prompt with what is followed.
        neurons: The neurons of that prompt.
        values: What each activation becomes; of an attention neuron at a source, what is taken from its head's output
            at each place.
        max_bytes: A cap on the working set.
        progress: What a progress bar says; empty for none.
    """
    removals = _removals(neurons, values)
    measure = partial(log_probs_without, model, runs, max_bytes=max_bytes, progress=progress)
    effect, log_prob, joint = alone_and_together(removals, measure)
    return Verified(replace(neurons, effect=effect.to(neurons.score)), log_prob, joint)


def joint_effects(model: Any, runs: AnswerRuns, neurons: Neurons, *, max_bytes: int = MAX_BYTES) -> dict[int, float]:
    """Return what setting the first few neurons to zero together costs, by how many of them, in nats."""
    removals = _removals(neurons, _values(model, runs, neurons, "zero", [], 0))
    first = first_counts(len(removals))
    base, without = log_probs_without(model, runs, [removals[:n] for n in first], max_bytes=max_bytes)
    return dict(zip(first, (base - without).tolist(), strict=True))


def _removals(neurons: Neurons, values: Sequence[float | Tensor]) -> list[NeuronRemoval]:
    columns = (neurons.flat(name) for name in ("site", "layer", "head", "source", "index"))
    return [NeuronRemoval(SITES[s], la, h, p, i, v) for s, la, h, p, i, v in zip(*columns, values, strict=True)]


LogProbsWithout = Callable[[Sequence[Sequence[NeuronRemoval]]], tuple[Float[Tensor, ""], Float[Tensor, "set"]]]
"""Measures a log-probability untouched, and with each of some sets taken out."""


def alone_and_together(
    removals: Sequence[NeuronRemoval], measure: LogProbsWithout
) -> tuple[Float[Tensor, "n"], float, dict[int, float]]:
    """Return what taking each out alone costs, the untouched log-probability, and what the first few together cost."""
    first = first_counts(len(removals))
    base, without = measure([*([removal] for removal in removals), *(removals[:n] for n in first)])
    effects = base - without
    joint = dict(zip(first, effects[len(removals) :].tolist(), strict=True))
    return effects[: len(removals)], float(base), joint


def first_counts(n: int) -> list[int]:
    """Return how many of the first of ``n`` are taken out together: steps of :data:`JOINT`, and all.

    Examples:
        >>> first_counts(12)
        [1, 3, 10, 12]
    """
    return [count for count in JOINT if count < n] + [n]


def references(
    model: Any, ids: Int[Tensor, "1 pos"], baseline: Replacement, reference: Sequence[str] | None
) -> list[Int[Tensor, "_"]]:
    """Return the prompts a baseline is taken from: the prompt itself by default.

    Raises:
        ValueError: If there is none, or they would be ignored.
    """
    if reference is None:
        return [ids[0]]
    if baseline == "zero":
        raise ValueError("reference is used by baseline='mean' and 'resample' only: leave it out, or take one of them")
    if not reference:
        raise ValueError("reference is empty: give at least one prompt, or None for the prompt itself")
    return [one_prompt(model, text)[0] for text in reference]


def _values(
    model: Any,
    runs: AnswerRuns,
    neurons: Neurons,
    baseline: Replacement,
    prompts: Sequence[Int[Tensor, "_"]],
    seed: int,
) -> list[float | Tensor]:
    """Return what each activation becomes; of an attention neuron at a source, what is taken from its head's output."""
    at_source = (neurons.site == SITES.index("attn")) & (neurons.source >= 0)
    columns = zip(*(neurons.flat(name) for name in ("site", "layer", "head", "index")), strict=True)
    units: list[Unit] = [(SITES[site], layer, head, index) for site, layer, head, index in columns]
    found: list[float | Tensor] = [0.0] * len(units)
    elsewhere, here = ((~at_source).nonzero()[:, 0].tolist(), at_source.nonzero()[:, 0].tolist())
    if elsewhere and baseline != "zero":
        replaced = unit_activations(model, prompts, [units[i] for i in elsewhere], baseline, seed)
        for i, value in zip(elsewhere, replaced, strict=True):
            found[i] = float(value)
    if here:
        sources = neurons.source[here].tolist()
        taken = source_values(model, runs, prompts, [units[i] for i in here], sources, baseline, seed)
        for i, value in zip(here, taken, strict=True):
            found[i] = value
    return found
