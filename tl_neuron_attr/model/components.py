"""Heads and neurons as the user names them: what interventions take, checked once.

A head is ``(layer, head)`` or ``"L3H2"``; an MLP neuron ``("mlp", layer, index)`` or ``"L1N287"``; an attention neuron
``("attn", layer, head, dimension)`` or ``"L21H0D79"``, its source ``@3`` allowed behind it; a neuron of an expert
``"L3E17N204"``, or ``("mlp", layer, index)`` with the index counted through all experts of the layer;
:class:`~tl_neuron_attr.Neurons` names all of its neurons.
"""

import operator
import re
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.weights import block_weights
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neurons import Neurons

Head = tuple[int, int]
MlpNeuron = tuple[Literal["mlp"], int, int]
AttnNeuron = tuple[Literal["attn"], int, int, int]
Component = Head | MlpNeuron | AttnNeuron

if TYPE_CHECKING:
    Components = Neurons | Sequence[Component | str] | Sequence[Sequence[Component | str]]
    """Neurons, a list of tuples and labels, or one such list per prompt."""
    NamedHead = Head | str
    """A ``(layer, head)`` pair or a label."""
    NamedHeads = Sequence[Head | str]
else:  # the functions below check every element, and their errors name it
    Components = list | tuple | Neurons
    NamedHead = tuple | str
    NamedHeads = list | tuple

_INDEX = "([0-9]{1,9})"
"""An index in a label: digits of ASCII, and no more of them than any model needs."""

_LABEL = re.compile(f"L{_INDEX}(?:(?:E{_INDEX})?N{_INDEX}|H{_INDEX}(?:D{_INDEX}(?:@[0-9]{{1,9}})?)?)")
_FORMS = '(layer, head), ("mlp", layer, index), ("attn", layer, head, dimension) or a label such as "L1N287"'


def head_name(layer: int, head: int | None) -> str:
    """Return ``L3H2``, or ``L3`` for all heads of the layer.

    Examples:
        >>> head_name(3, 2), head_name(3, None)
        ('L3H2', 'L3')
    """
    return f"L{layer}" if head is None else f"L{layer}H{head}"


def required_heads(
    model: Any, heads: NamedHeads | None, *, fix: str = "give at least one (layer, head) pair"
) -> list[Head]:
    """Return the heads given, checked, labels read as pairs; all heads of the model for ``None``.

    Args:
        model: The model.
        heads: Pairs or labels.
        fix: What the caller can do where there are none.

    Raises:
        ValueError: If there is none, with ``fix``.
        TypeError: If an element is neither a pair nor a head's label.
        IndexError: If one is out of range or named twice.
    """
    if heads is None:
        return [(layer, h) for layer in range(model.cfg.n_layers) for h in range(dimensions.n_heads(model, layer))]
    _require_list(heads, "heads")
    if not heads:
        raise ValueError(f"heads is empty: {fix}")
    named = _checked(model, heads, "heads")
    return [_require_head(component, f"heads[{i}]") for i, component in enumerate(named)]


def required_head(model: Any, head: NamedHead, name: str = "head") -> Head:
    """Return one head, checked; errors as :func:`required_heads`."""
    component = _read(model, head, name)
    _Sizes(model).require(component)
    return _require_head(component, name)


def component_lists(model: Any, components: Components) -> list[list[Component]]:
    """Return the components of each prompt: one list for all prompts, or one list per prompt.

    An attention neuron of a search belongs to a source position; what is named here is its column of ``W_O``, so
    several of them can be one component.

    Raises:
        TypeError: Naming the element that is no component.
        IndexError: If a layer, head, dimension or neuron is out of range, or a component is named twice.
        ValueError: If MLP neurons are named of a layer where they cannot be read, or an expert of a dense layer.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> component_lists(tna.demo.load(), ["L2H3", "L4N17", "L1H0D5@3"])
        [[(2, 3), ('mlp', 4, 17), ('attn', 1, 0, 5)]]
    """
    if isinstance(components, Neurons):
        prompts = [components[i] for i in range(len(components.score))] if components.batched else [components]
        return [_of_neurons(model, one) for one in prompts]
    _require_list(components, "components")
    nested = [isinstance(each, list) for each in components]
    if any(nested) and not all(nested):
        odd = nested.index(not nested[0])
        raise TypeError(
            f"components[{odd}] is {_brief(components[odd])} and components[0] is {_brief(components[0])}: give one "
            "list of components for all prompts, or one list per prompt"
        )
    if any(nested):
        return [_checked(model, list(each), f"components[{i}]") for i, each in enumerate(components)]
    return [_checked(model, components, "components")]


def _require_list(given: object, name: str) -> None:
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list, got the string {given!r}: write [{given!r}]")
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name} must be a list of {_FORMS}, or Neurons; got {_brief(given)}: wrap it in list(...)")


def _checked(model: Any, given: Sequence[object], name: str) -> list[Component]:
    """Return the components of one list, in range, each once; sources of one attention neuron are one component."""
    found: dict[Component, object] = {}
    sizes = _Sizes(model)
    for i, element in enumerate(given):
        component = _read(model, element, f"{name}[{i}]")
        sizes.require(component)
        if component in found and not _differ_in_source(element, found[component]):
            raise IndexError(f"{component} is named twice")
        found[component] = element
    return list(found)


def _differ_in_source(element: object, other: object) -> bool:
    return element != other and all(isinstance(each, str) and "@" in each for each in (element, other))


def _of_neurons(model: Any, neurons: Neurons) -> list[Component]:
    columns = zip(*(neurons.flat(name) for name in ("site", "layer", "head", "index")), strict=True)
    named: list[Component] = [
        ("mlp", layer, i) if SITES[int(site)] == "mlp" else ("attn", layer, head, i) for site, layer, head, i in columns
    ]
    sizes = _Sizes(model)
    for component in named:
        sizes.require(component)
    return list(dict.fromkeys(named))


def _read(model: Any, element: object, name: str) -> Component:
    """Return one component, read from a tuple or a label; an expert's neuron counted through all of its layer."""
    if isinstance(element, str):
        match = _LABEL.fullmatch(element)
        if match is None:
            raise TypeError(f"{name} must be {_FORMS}, got {_brief(element)}")
        layer, expert, neuron, head, dimension = (None if group is None else int(group) for group in match.groups())
        assert layer is not None
        if neuron is not None:
            return "mlp", layer, neuron if expert is None else _of_expert(model, layer, expert, neuron)
        assert head is not None
        return (layer, head) if dimension is None else ("attn", layer, head, dimension)
    if isinstance(element, tuple):
        site = element[0] if element and isinstance(element[0], str) else None
        numbers = [_integer(each) for each in (element if site is None else element[1:])]
        integers = [each for each in numbers if each is not None]
        if len(integers) == len(numbers):
            if site is None and len(integers) == 2:
                return integers[0], integers[1]
            if site == "mlp" and len(integers) == 2:
                return "mlp", integers[0], integers[1]
            if site == "attn" and len(integers) == 3:
                return "attn", integers[0], integers[1], integers[2]
    raise TypeError(f"{name} must be {_FORMS}, got {_brief(element)}")


def _of_expert(model: Any, layer: int, expert: int, neuron: int) -> int:
    """Return the number of an expert's neuron, counted through all experts of its layer.

    Raises:
        IndexError: If there is no such layer, expert or neuron, with the valid range.
        ValueError: If the layer is dense.
    """
    label = f"L{layer}E{expert}N{neuron}"
    within(f"layer of {label}", layer, model.cfg.n_layers)
    experts = block_weights(model, layer).experts
    if experts is None:
        raise ValueError(f"{label} names an expert, and layer {layer} has none that can be read: L{layer}N{neuron}?")
    within(f"expert of {label}", expert, len(experts.starts))
    within(f"neuron of {label}", neuron, len(experts.writer(expert)))
    return experts.starts[expert] + neuron


def _integer(value: object) -> int | None:
    """Return an integer of Python, numpy or torch as an int; None for anything else, booleans and floats included."""
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0 or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def _brief(value: object) -> str:
    """Return what an error shows of something that is no component: never a whole tensor or model."""
    plain = isinstance(value, (int, float, str, tuple, list))
    shown = repr(value) if plain else type(value).__name__
    return shown if len(shown) <= 60 else type(value).__name__


def _require_head(component: Component, name: str) -> Head:
    if len(component) != 2:
        raise TypeError(f'{name} must be a head, (layer, head) or a label such as "L3H2", got {component}')
    return component


class _Sizes:
    """A model's sizes, each read off its layer once however many components are checked."""

    def __init__(self, model: Any) -> None:
        self._n_layers: int = model.cfg.n_layers
        self._d_mlp = cache(partial(dimensions.d_mlp, model))
        self._n_heads = cache(partial(dimensions.n_heads, model))
        self._d_head = cache(partial(dimensions.d_head, model))

    def require(self, component: Component) -> None:
        """Refuse a component out of range."""
        layer = component[0] if len(component) == 2 else component[1]
        within(f"layer of {component}", layer, self._n_layers)
        if len(component) == 3:
            within(f"neuron of {component}", component[2], self._d_mlp(layer))
            return
        head, n_heads = component[1] if len(component) == 2 else component[2], self._n_heads(layer)
        if not n_heads:
            raise ValueError(f"{component}: layer {layer} has no attention heads; its mixer counts as a whole")
        within(f"head of {component}", head, n_heads)
        if len(component) == 4:
            within(f"dimension of {component}", component[3], self._d_head(layer))
