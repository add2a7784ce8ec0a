"""Prediction enhancing: deep MLP neurons switch each other on (paper 3, stage d).

Neuron ``i`` feeds a neuron ``j`` of a higher layer by the inner product of what ``i`` wrote with ``j``'s subkey: the
part of ``j``'s pre-activation that comes from ``i``. The edges make an acyclic graph, whose root is the neuron of the
lowest layer (of several there, the most important one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.arithmetic_cases import Case
from tl_neuron_attr.cna.feature_predicting import KS, coefficient_drop
from tl_neuron_attr.cna.paired_runs import ChangedCases, mlp_coefficients, paired_changes, plain, zeroing
from tl_neuron_attr.cna.selection import only_prompt, random_neurons, roots, selected
from tl_neuron_attr.model.components import NamedHead, component_lists, required_head
from tl_neuron_attr.model.neuron_writes import neuron_writes
from tl_neuron_attr.model.positions import Pos, Positions
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.subkeys import key_weights, subkey_directions
from tl_neuron_attr.model.targets import Target, one_each
from tl_neuron_attr.model.weights import BlockWeights
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import networkx as nx

_SHOWN = 20


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class PredictionEnhancing(PrintsAsTable):
    """What deep neurons of one prompt fed each other.

    Attributes:
        neurons: The neurons.
        inner: By subkey (``"gate"`` and ``"up"``, or ``"key"`` for MLPs without a gate), ``[i, j]``: the part of neuron
            ``j``'s pre-activation that neuron ``i`` wrote; zero where ``i`` is not of a lower layer.
    """

    neurons: Neurons
    inner: dict[str, Float[Tensor, "k k"]]

    @property
    def total(self) -> Float[Tensor, "k k"]:
        """Return the edges of all subkeys summed."""
        return torch.stack(list(self.inner.values())).sum(0)

    @property
    def root(self) -> int:
        """Return the index of the root in :attr:`neurons`: of the lowest layer, then of the largest change."""
        return int(roots(self.neurons.unsqueeze())[0])

    @property
    def root_neuron(self) -> Neurons:
        """Return the root."""
        return selected(self.neurons.unsqueeze(), torch.tensor([[self.root]], device=self.neurons.layer.device))[0]

    def graph(self) -> "nx.DiGraph[str]":
        """Return a ``networkx.DiGraph`` of all edges, ``weight`` as in :attr:`total`."""
        import networkx as nx

        labels, total = self.neurons.flat_labels, self.total
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(labels)
        for i, j in total.nonzero().tolist():
            graph.add_edge(labels[i], labels[j], weight=float(total[i, j]))
        return graph

    def to_frame(self) -> pd.DataFrame:
        """Return one row per edge, largest first: from, to, one column per subkey, and their sum."""
        labels, total = self.neurons.flat_labels, self.total
        rows = [
            {"from": labels[i], "to": labels[j]}
            | {name: float(inner[i, j]) for name, inner in self.inner.items()}
            | {"sum": float(total[i, j])}
            for i, j in total.nonzero().tolist()
        ]
        frame = pd.DataFrame(rows, columns=["from", "to", *self.inner, "sum"])
        return frame.sort_values("sum", ascending=False, key=abs, ignore_index=True)

    def table(self) -> Table:
        """Return the strongest edges."""
        frame = self.to_frame()
        edges = plural(len(frame), "edge")
        caption = f"root {self.neurons.flat_labels[self.root]}; contributions to pre-activations, {edges}"
        return Table(list(frame.columns), frame.head(_SHOWN).to_numpy().tolist(), caption)


@typechecked
@torch.no_grad()
def prediction_enhancing(
    cache: ActivationCache, neurons: Neurons, *, pos: Pos = -1, model: Any = None
) -> PredictionEnhancing:
    """Return what deep MLP neurons of a prompt fed each other at the scored position (the PE-DAG).

    Keys are behind the norm in front of the MLP, its scale frozen, as what neurons wrote is behind a post-norm, if any.
    The keys of gate and input projection are apart, as in the authors' code.

    Args:
        cache: The run of one prompt.
        neurons: MLP neurons of that prompt, for example :attr:`FeaturePredicting.neurons`.
        pos: The position they were scored at.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If the cache holds several prompts, or a neuron is not of an MLP.
        IndexError: If a neuron or position is out of range.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> _, cache = model.run_with_cache("3 + 5 =")
        >>> found = cna.prediction_enhancing(cache, cna.feature_predicting(model, "3 + 5 =", "8").neurons)
        >>> list(found.inner), found.root_neuron.labels[0]
        (['gate', 'up'], 'L4N157')
    """
    stream, places, _ = checked_stream(cache, ("mlp",), pos=pos, model=model, reads=True)
    one = only_prompt(stream, neurons)
    for component in (each for each in component_lists(stream.model, one)[0] if each[0] != "mlp"):
        raise ValueError(f"neurons must be of MLPs, got {component}")
    written = torch.zeros(len(one), stream.shape[2], dtype=stream.dtype, device=stream.device)
    names = subkey_names(stream.weights(0))
    read = {name: torch.zeros_like(written) for name in names}
    row = torch.zeros_like(one.layer)
    for wrote in neuron_writes(stream, places, one, row):
        mine = wrote.which
        written[mine] = wrote.vectors
        here = Positions(row[mine], places.pos.expand(len(mine)))
        for name, which in names.items():
            read[name][mine] = subkey_directions(stream, "mlp", wrote.layer, one.index[mine], here, which)
    feeds = one.layer[:, None] < one.layer
    return PredictionEnhancing(one, {name: (written @ u.T) * feeds for name, u in read.items()})


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class RootMasking(PrintsAsTable):
    """What zeroing one low neuron takes from the coefficients of the others (paper 3, Table 6).

    Attributes:
        frame: One row per number of neurons ``k``: ``root`` and ``random``, shares of the others' coefficients lost.
        cases: How many cases.
    """

    frame: pd.DataFrame
    cases: int

    def table(self) -> Table:
        """Return Table 6, and the control."""
        shown = (100 * self.frame[["root", "random"]]).round(1).astype(str).to_numpy().tolist()
        rows = [(f"top {k}", *line) for k, line in zip(self.frame["k"], shown, strict=True)]
        caption = f"{plural(self.cases, 'case')}; coefficients lost, %"
        return Table(("neurons", "root zeroed", "random neuron zeroed"), rows, caption)


@typechecked
@torch.no_grad()
def root_masking(
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
) -> RootMasking:
    """Zero the root of each case's ``k`` neurons of the largest change (paper 3, Tables 6, 16 and 20).

    What is measured is the drop of the other neurons' coefficients, as *coef* of
    :func:`~tl_neuron_attr.cna.mask_keep_coef`; the root's own is left out. The control, ours, zeroes a random active
    neuron of the root's layer that is not among the ``k``.

    Args:
        model: The model.
        cases: The cases.
        head: The head whose zeroing changes the neurons most.
        ks: The numbers of neurons, at least two.
        layers: The layers searched; from the head's layer upwards by default, as it changes no other.
        contrast: If given, neurons are compared by ``log p(answer) - log p(contrast)``: a token, or one for each case.
        batch_size: Cases run together.
        seed: Of the random neurons.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no case, or a ``k`` is out of range.
        IndexError: If the head or a layer is out of range.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, cna.problems("+", digits=2, n=8))
        >>> cna.root_masking(model, cases, (3, 2), ks=[20], progress=False).frame["k"].tolist()
        [20]
    """
    head = required_head(model, head)
    if min(ks) < 2:
        raise ValueError(f"ks must be at least 2, so that there are others than the root, got {min(ks)}")
    lost: dict[str, list[Tensor]] = {}
    runs = paired_changes(
        plain(model),
        zeroing(model, [head]),
        cases,
        max(ks),
        layers=range(head[0], model.cfg.n_layers) if layers is None else layers,
        contrast=None if contrast is None else one_each(model, contrast, len(cases), "contrast"),
        batch_size=batch_size,
        what="root masking",
        progress=progress,
    )
    for changed in runs:
        for k in ks:
            top = changed.neurons.top(k)
            root = selected(top, roots(top)[:, None])
            control = random_neurons(changed.coefficient, _beside(root, top, changed), 1, changed.indices, seed)
            for name, zeroed in (("root", root), ("random", control)):
                after = zeroing(model, zeroed)(changed.tokens)
                lost.setdefault(f"{name} {k}", []).append(_lost_by_others(after, top, root))
    mean = {name: float(torch.cat(shares).mean()) for name, shares in lost.items()}
    rows = [{"k": k, "root": mean[f"root {k}"], "random": mean[f"random {k}"]} for k in ks]
    return RootMasking(pd.DataFrame(rows), len(cases))


def subkey_names(weights: BlockWeights) -> dict[str, str]:
    """Return what the subkeys of a block's MLP neurons are called, and which weight holds them."""
    which = key_weights(weights, "mlp", "both")
    return {"gate": "gate", "up": "in"} if len(which) == 2 else {"key": which[0]}


def _beside(root: Neurons, top: Neurons, changed: ChangedCases) -> Bool[Tensor, "case layer neuron"]:
    """Return which neurons lie in each root's layer and not among ``top``."""
    shape = changed.coefficient.shape
    allowed = torch.zeros(shape, dtype=torch.bool)
    case = torch.arange(shape[0])[:, None]
    allowed[case, root.layer] = True
    allowed[case, top.layer, top.index] = False
    return allowed


def _lost_by_others(after: ActivationCache, top: Neurons, root: Neurons) -> Float[Tensor, "case"]:
    """Return the share that the coefficients of all but the root lost."""
    post = mlp_coefficients(after)
    case = torch.arange(len(post))[:, None]
    others = (top.layer != root.layer) | (top.index != root.index)
    return coefficient_drop(top.coefficient * others, post[case, top.layer, top.index] * others)
