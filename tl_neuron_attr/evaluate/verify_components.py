"""Measure what a prediction loses when heads, neurons and whole sublayers named by hand are taken out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.evaluate.verify import Replacement, alone_and_together, references
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.components import Component, component_lists
from tl_neuron_attr.model.measured_effects import NeuronRemoval, log_probs_without
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.reference_activations import Unit, unit_activations
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.model.tokens import Tokens, one_prompt
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd

    Verifiable = Sequence[Component | tuple[Site, int] | str]
    """Heads, neurons and labels, as :func:`~tl_neuron_attr.ablate` takes them; sublayers as ``("mlp", layer)``."""
else:  # component_lists checks every element, and its errors name it
    Verifiable = list | tuple


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class VerifiedComponents(PrintsAsTable):
    """Components with the effect of taking each out alone, and of taking the first few out together.

    Attributes:
        labels: The components, as given: ``"L3H2"``, ``"L1N287"``, ``"L1H0D5"``, ``"L4 mlp"``.
        effect: How much log-probability taking each out alone costs, in nats.
        log_prob: The untouched log-probability.
        joint: By how many of the first components were taken out together, how much that costs, in nats.
    """

    labels: tuple[str, ...]
    effect: Float[Tensor, "component"]
    log_prob: float
    joint: dict[int, float]

    def table(self) -> Table:
        """Return the components in the order given, and what the first few cost together."""
        rows = [
            (label, effect, self.joint.get(n))
            for n, (label, effect) in enumerate(zip(self.labels, self.effect.tolist(), strict=True), 1)
        ]
        return Table(("taken out", "alone", "with those above"), rows, f"in nats, of {self.log_prob:.2f}")

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per component: ``component``, ``effect``."""
        import pandas as pd

        return pd.DataFrame({"component": self.labels, "effect": self.effect.tolist()})


@typechecked
def verify_components(
    model: Any,
    tokens: Tokens,
    components: Verifiable,
    target: Target,
    *,
    baseline: Replacement = "zero",
    reference: Sequence[str] | None = None,
    contrast: Target | None = None,
    pos: Pos = -1,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> VerifiedComponents:
    """Take each component out alone and the first 1, 3, 10, 30, ... together, and measure what log p(target) loses.

    Components are taken out at every position. A sublayer is taken out by taking out all of its neurons: what its bias
    writes stays. Neurons found by a search go to :func:`verify`, which takes attention neurons out at their source.

    Args:
        model: The model.
        tokens: One prompt: its text or token ids.
        components: Heads ``(layer, head)``, neurons ``("mlp", layer, index)`` and ``("attn", layer, head, dimension)``,
            labels of them, and sublayers ``("mlp", layer)`` and ``("attn", layer)``.
        target: The token followed: an id, or a string that is one token; a :class:`~tl_neuron_attr.Answer`, put behind
            ``pos``; or a set of right answers (:func:`~tl_neuron_attr.any_of`).
        baseline: What activations become: ``"zero"``; ``"mean"``, their mean over the positions of ``reference``
            prompts; ``"resample"``, what they were together at a random one.
        reference: Prompts for the baseline; by default the prompt itself.
        contrast: If given, effects are on log p(target) - log p(contrast).
        pos: The position scored.
        seed: Of the positions drawn.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar, once it takes more than a moment.

    Raises:
        TypeError: If an element is no component.
        IndexError: If a component, position or token id is out of range, or a component is named twice.
        ValueError: If there is no component, ``reference`` is empty or comes with ``baseline="zero"``, or neurons
            of experts are to become anything but zero.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> found = verify_components(tna.demo.load(), "3 + 5 =", ["L3H6", ("mlp", 3)], "8", progress=False)
        >>> [f"{label} {effect:.1f}" for label, effect in zip(found.labels, found.effect.tolist())]
        ['L3H6 2.2', 'L3 mlp 0.3']
    """
    ids = one_prompt(model, tokens)
    units = _units(model, components)
    runs = AnswerRuns.of(model, ids, target, at=from_start(pos, *ids.shape), contrast=contrast)
    prompts = references(model, ids, baseline, reference)
    values = [0.0] * len(units) if baseline == "zero" else unit_activations(model, prompts, units, baseline, seed)
    removals = [
        NeuronRemoval(site, layer, head, -1, index, value if index < 0 else float(value))
        for (site, layer, head, index), value in zip(units, values, strict=True)
    ]
    shown = "taking out" if progress else ""
    measure = partial(log_probs_without, model, runs, max_bytes=max_bytes, progress=shown)
    return VerifiedComponents(tuple(map(_label, units)), *alone_and_together(removals, measure))


def _units(model: Any, components: Verifiable) -> list[Unit]:
    """Return what is taken out, checked.

    Raises:
        ValueError: If there is nothing.
    """
    if not len(components):
        raise ValueError('components is empty: name heads, neurons or sublayers such as ("mlp", 3)')
    found: list[Unit] = []
    for i, each in enumerate(components):
        if isinstance(each, tuple) and len(each) == 2 and each[0] in SITES:
            site, layer = cast(tuple[Site, int], each)
            within(f"layer of components[{i}]", layer, model.cfg.n_layers)
            if site == "attn":
                block_weights(model, layer).require_head(layer, None)
            found.append((site, layer, -1, -1))
            continue
        component = component_lists(model, [cast(Component, each)])[0][0]
        if len(component) == 2:
            found.append(("attn", component[0], component[1], -1))
        elif len(component) == 3:
            found.append(("mlp", component[1], -1, component[2]))
        else:
            found.append(("attn", component[1], component[2], component[3]))
    if len(set(found)) < len(found):
        twice = next(unit for unit in found if found.count(unit) > 1)
        raise IndexError(f"components names {_label(twice)} twice")
    return found


def _label(unit: Unit) -> str:
    site, layer, head, index = unit
    if site == "mlp":
        return f"L{layer} mlp" if index < 0 else f"L{layer}N{index}"
    if head < 0:
        return f"L{layer} attn"
    return f"L{layer}H{head}" if index < 0 else f"L{layer}H{head}D{index}"
