"""Feature predicting: the head that matters, and the deep MLP neurons it switches on (paper 3, stage c)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.arithmetic_cases import Case
from tl_neuron_attr.cna.changed_neurons import changed_neurons
from tl_neuron_attr.cna.head_effects import HeadEffects, head_effects
from tl_neuron_attr.cna.neuron_comparison import SHOWN_NEURONS
from tl_neuron_attr.cna.paired_runs import mlp_coefficients, paired_changes, plain, zeroing
from tl_neuron_attr.cna.selection import random_neurons
from tl_neuron_attr.model.components import Head, NamedHead, head_name, required_head
from tl_neuron_attr.model.intervene import ablate, keep
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.model.targets import Target, one_each
from tl_neuron_attr.model.tokens import Tokens, one_prompt
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed

KS = (99, 50, 30, 20, 10)
"""The numbers of neurons of the paper's tables."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class FeaturePredicting(PrintsAsTable):
    """A prediction's most important head, and what zeroing it does to the MLP neurons.

    Attributes:
        head: The head.
        effects: What zeroing each head leaves of the prediction.
        neurons: The MLP neurons whose increase of the answer falls most, by how much (``score``, in nats).
        other_coefficient: Their coefficients with the head zeroed.
    """

    head: Head
    effects: HeadEffects
    neurons: Neurons
    other_coefficient: Float[Tensor, "k"]

    def table(self) -> Table:
        """Return the neurons of the largest change (paper 3, Table 4)."""
        rows = [
            (rank, r["neuron"], r["score"], r["coefficient"], other, listed(r.get("promoted", [])))
            for rank, (r, other) in enumerate(
                zip(self.neurons.to_frame().to_dict("records"), self.other_coefficient.tolist(), strict=True), 1
            )
        ]
        left = f"{head_name(*self.head)} zeroed: probability {float(self.effects.base_prob):.4f}"
        headings = ("rank", "neuron", "change", "coefficient", "with the head zeroed", "promotes")
        return Table(headings, rows[:SHOWN_NEURONS], f"{left} -> {float(self.left):.4f}; change in nats")

    def top(self, k: int) -> "FeaturePredicting":
        """Return the first ``k`` neurons only."""
        return replace(self, neurons=self.neurons.top(k), other_coefficient=self.other_coefficient[:k])

    @property
    def left(self) -> Float[Tensor, ""]:
        """Return the probability with the head zeroed."""
        return self.effects.prob[self.head]


@typechecked
@torch.no_grad()
def feature_predicting(
    model: Any,
    tokens: Tokens,
    target: Target,
    *,
    head: NamedHead | None = None,
    k: int = 20,
    layers: Sequence[int] | None = None,
    contrast: Target | None = None,
    max_bytes: int = MAX_BYTES,
) -> FeaturePredicting:
    """Return the head whose zeroing lowers a prediction most, and the MLP neurons whose increase it takes away.

    The neurons are those of paper 3, Table 4, found by :func:`~tl_neuron_attr.cna.changed_neurons`: exact, and without
    scoring every neuron.

    Args:
        model: The model.
        tokens: One prompt, as text or token ids.
        target: The token followed.
        head: The head; by default the one whose zeroing lowers log p(target) most.
        k: How many neurons.
        layers: The layers searched; from the head's layer upwards by default, as it changes no other.
        contrast: If given, neurons' increases are of ``log p(target) - log p(contrast)``; the head is still the one
            whose zeroing lowers log p(target) most.
        max_bytes: A cap on the working set.

    Raises:
        ValueError: If there are several prompts, the target is not one token, or ``k`` is out of range.
        IndexError: If the head or a layer is out of range.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> found = cna.feature_predicting(demo.load(), "3 + 5 =", "8")
        >>> bool(found.left < found.effects.base_prob), found.neurons.labels[0]
        (True, 'L4N157')
    """
    ids = one_prompt(model, tokens)
    asked = None if head is None else [required_head(model, head)]
    effects = head_effects(model, ids[0], target, heads=asked, max_bytes=max_bytes, progress=False)
    chosen = asked[0] if asked else effects.ranked()[0]
    return predicting_through(model, ids, target, effects, chosen, k, layers, contrast, max_bytes)


def predicting_through(
    model: Any,
    ids: Int[Tensor, "1 pos"],
    target: Target,
    effects: HeadEffects,
    head: Head,
    k: int,
    layers: Sequence[int] | None,
    contrast: Target | None,
    max_bytes: int,
) -> FeaturePredicting:
    """Return the ``k`` neurons that a head of known effect switches on; arguments as in :func:`feature_predicting`."""
    searched = range(head[0], model.cfg.n_layers) if layers is None else layers
    cache, other = plain(model)(ids), zeroing(model, [head])(ids)
    neurons = changed_neurons(cache, other, target, k, layers=searched, contrast=contrast, max_bytes=max_bytes)[0]
    return FeaturePredicting(head, effects, neurons, mlp_coefficients(other)[0, neurons.layer, neurons.index])


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class MaskKeepCoef(PrintsAsTable):
    """How much the neurons of the largest change matter, by their number (paper 3, Table 5).

    Attributes:
        frame: One row per number of neurons ``k``: ``mask``, ``keep``, ``random`` (shares of the untouched accuracy
            lost) and ``coef`` (the share of their coefficients lost with the head zeroed).
        cases: How many cases.
        accuracy: The untouched model's accuracy.
        head_accuracy: The accuracy with the head zeroed.
    """

    frame: pd.DataFrame
    cases: int
    accuracy: float
    head_accuracy: float

    def table(self) -> Table:
        """Return Table 5, and the control."""
        rows = [
            (f"top {int(row['k'])}", *(_percent(row[c]) for c in _COLUMNS)) for row in self.frame.to_dict("records")
        ]
        caption = f"{plural(self.cases, 'case')}, accuracy {_percent(self.accuracy)} %, with the head zeroed "
        return Table(("neurons", *_COLUMNS), rows, f"{caption}{_percent(self.head_accuracy)} %; decrease in %")


_COLUMNS = ("mask", "keep", "coef", "random")


@typechecked
@torch.no_grad()
def mask_keep_coef(
    model: Any,
    cases: Sequence[Case],
    head: NamedHead,
    *,
    ks: Sequence[int] = KS,
    layers: Sequence[int] | None = None,
    contrast: Target | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> MaskKeepCoef:
    """Run the mask, keep and coefficient experiment on the neurons a head switches on (paper 3, Tables 5, 15 and 19).

    In each case, the ``k`` MLP neurons of the largest change are taken, comparing the untouched run with one where
    ``head`` is zeroed. In the untouched model,

    * *mask* zeroes them,
    * *keep* zeroes all other MLP neurons of ``layers``,
    * *random*, a control of ours, zeroes as many random neurons of ``layers`` that are active, or all such.

    *coef* is what zeroing the head takes from their coefficients: the drop along each coefficient's own sign, summed,
    over the sum of their sizes, averaged over cases. (The paper prints sizes; a coefficient that turns round has lost
    more than all of itself, which sizes do not show.)

    Args:
        model: The model.
        cases: The cases.
        head: The head.
        ks: The numbers of neurons.
        layers: The deep layers, whose neurons are compared, kept and drawn; from the head's layer upwards by default,
            as in the paper.
        contrast: If given, neurons are compared by ``log p(answer) - log p(contrast)``: a token, or one for each case.
        batch_size: Cases run together.
        seed: Of the random neurons.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no case, the untouched model answers none, or a ``k`` is out of range.
        IndexError: If the head or a layer is out of range, or a layer is named twice.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, cna.problems("+", digits=2, n=8))
        >>> found = cna.mask_keep_coef(model, cases, (3, 2), ks=[20], progress=False)
        >>> sorted(found.frame.columns)
        ['coef', 'k', 'keep', 'mask', 'random']
    """
    head = required_head(model, head)
    deep = list(range(head[0], model.cfg.n_layers)) if layers is None else list(layers)
    for layer in deep:
        within("layers", layer, model.cfg.n_layers)
    allowed = torch.tensor([layer in deep for layer in range(model.cfg.n_layers)])[:, None]
    right: dict[str, list[Bool[Tensor, "case"]]] = {}
    lost: dict[int, list[Float[Tensor, "case"]]] = {k: [] for k in ks}
    runs = paired_changes(
        plain(model),
        zeroing(model, [head]),
        cases,
        max(ks),
        layers=deep,
        contrast=None if contrast is None else one_each(model, contrast, len(cases), "contrast"),
        batch_size=batch_size,
        what="mask and keep",
        progress=progress,
    )
    for changed in runs:

        def note(name: str, tokens: Tensor = changed.tokens, answers: Tensor = changed.answers) -> None:
            with unembedding_last(model, tokens):
                right.setdefault(name, []).append(model(tokens)[:, 0].argmax(-1) == answers)

        note("untouched")
        with ablate(model, [head]):
            note("head")
        drawn = random_neurons(changed.coefficient, allowed, max(ks), changed.indices, seed)
        for k in ks:
            top = changed.neurons.top(k)
            lost[k].append(coefficient_drop(top.coefficient, changed.other_coefficients(top)))
            with ablate(model, top):
                note(f"mask {k}")
            with keep(model, top, layers=deep):
                note(f"keep {k}")
            with ablate(model, drawn.top(k)):
                note(f"random {k}")
    share = {name: float(torch.cat(shares).double().mean()) for name, shares in right.items()}
    if share["untouched"] == 0:
        raise ValueError("cases: the untouched model answers none of them, so nothing can be lost")
    rows = [
        {"k": k, "coef": float(torch.cat(lost[k]).mean())}
        | {name: 1 - share[f"{name} {k}"] / share["untouched"] for name in ("mask", "keep", "random")}
        for k in ks
    ]
    return MaskKeepCoef(pd.DataFrame(rows)[["k", *_COLUMNS]], len(cases), share["untouched"], share["head"])


def coefficient_drop(before: Float[Tensor, "*b k"], after: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """Return the share that coefficients lost, each counted along its own sign; zero where there was none to lose.

    Examples:
        >>> coefficient_drop(torch.tensor([-6.0, 2.0]), torch.tensor([-1.0, -1.0]))
        tensor(1.)
    """
    size = before.abs().sum(-1)
    return ((before - after) * before.sign()).sum(-1) / size.where(size > 0, 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
