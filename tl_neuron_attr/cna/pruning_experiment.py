"""Does fine-tuning need more than the neurons it amplifies? Prune the others and fine-tune (paper 3, Table 11).

1. An adapter is trained; in each case the ``top`` MLP neurons that raise the answer most above what they did in the
   original model are taken, by comparative neuron analysis, and united.
2. All other neurons of the deep layers are pruned.
3. A fresh adapter is trained on the pruned model, and one on a model pruned to as many random neurons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pandas as pd
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.answered import answered
from tl_neuron_attr.cna.arithmetic_cases import Case, require_cases
from tl_neuron_attr.cna.coefficients import run_of
from tl_neuron_attr.cna.lora import Adapter, Training, require_training, train_lora
from tl_neuron_attr.cna.paired_runs import paired_changes, plain
from tl_neuron_attr.cna.pruning import kept_by_layer, prune_mlp
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import MlpNeuron
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

Kept = Mapping[int, Sequence[int]]
"""Neurons by layer."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class PruningExperiment(PrintsAsTable):
    """Accuracies of pruned and fine-tuned models (paper 3, Table 11).

    Attributes:
        frame: One row per model and group of cases, and the group ``"all"``: ``model``, ``group``, ``cases``,
            ``accuracy``.
        kept: The neurons kept, by layer.
        share: What share of the pruned layers' neurons they are.
        adapter: The adapter of the whole model.
    """

    frame: pd.DataFrame
    kept: Kept
    share: float
    adapter: Adapter

    def wide(self) -> pd.DataFrame:
        """Return accuracies: one row per model, one column per group."""
        wide = self.frame.pivot(index="model", columns="group", values="accuracy")
        return wide.reindex(index=self.frame["model"].drop_duplicates(), columns=self.frame["group"].drop_duplicates())

    def table(self) -> Table:
        """Return Table 11."""
        wide = self.wide()
        rows = [
            (name, *(f"{100 * x:.1f} %" for x in line))
            for name, line in zip(wide.index, wide.to_numpy().tolist(), strict=True)
        ]
        kept = plural(sum(len(neurons) for neurons in self.kept.values()), "neuron")
        caption = f"accuracy; {kept} of layers {list(self.kept)} kept, {100 * self.share:.1f} % of them"
        return Table(("model", *wide.columns), rows, caption)


@typechecked
def pruning_experiment(
    model: Any,
    train: Sequence[Case],
    test: Sequence[Case],
    *,
    layers: Sequence[int],
    lora_layer: int,
    top: int = 500,
    search: Sequence[Case] | None = None,
    adapter: Adapter | None = None,
    seed: int = 0,
    progress: bool = True,
    **training: Unpack[Training],
) -> PruningExperiment:
    """Prune the deep layers to the neurons that an adapter amplifies, fine-tune, and compare with random neurons.

    This is paper 3, Table 11. Afterwards the model is as it was. The random neurons are as many in each layer as are
    kept; the paper says only that their number is the same.

    Args:
        model: The model.
        train: Cases to train adapters on.
        test: Cases for the accuracies.
        layers: The layers pruned (17 to 31 in the paper).
        lora_layer: The layer adapted (9 in the paper).
        top: How many neurons of each case.
        search: The cases whose neurons are united; the training cases by default.
        adapter: The adapter of the whole model, if it is trained already.
        seed: Of adapters and random neurons.
        progress: Whether to show progress bars.
        **training: ``rank``, ``alpha``, ``learning_rate``, ``epochs``, ``steps``, ``batch_size``: see
            :func:`~tl_neuron_attr.cna.train_lora`.

    Raises:
        ImportError: If ``peft`` is missing.
        IndexError: If a layer is out of range or named twice.
        TypeError: If ``training`` holds what :func:`~tl_neuron_attr.cna.train_lora` does not take.
        ValueError: If there is no case, a number of ``training`` is not positive, ``top`` is out of range, or one of
            the layers would keep no neuron.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> train, test = cna.arithmetic_set(model, train=64, test=8)
        >>> found = pruning_experiment(model, train, test, layers=[3, 4], lora_layer=1, top=20, steps=2, progress=False)
        >>> found.wide().index.tolist()
        ['original', 'LoRA', 'pruned', 'pruned + LoRA', 'random', 'random + LoRA']
    """
    require_cases(train)
    require_cases(test)
    require_training(model, **training)
    for layer in layers:
        within("layers", layer, model.cfg.n_layers)
    within("lora_layer", lora_layer, model.cfg.n_layers)
    options: dict[str, Any] = {**training, "layer": lora_layer, "seed": seed, "progress": progress}
    whole = adapter or train_lora(model, train, **options)
    kept = amplified(model, whole, train if search is None else search, top=top, layers=layers, progress=progress)
    widths = {layer: dimensions.d_mlp(model, layer) for layer in layers}
    frames = [_accuracy("original", model, test), _accuracy("LoRA", model, test, whole)]
    rng = Random(f"pruning {seed}")
    drawn = {layer: sorted(rng.sample(range(widths[layer]), len(kept[layer]))) for layer in layers}
    for name, neurons in (("pruned", kept), ("random", drawn)):
        with prune_mlp(model, _named(neurons), layers):
            fresh = train_lora(model, train, **options)
            frames += [_accuracy(name, model, test), _accuracy(f"{name} + LoRA", model, test, fresh)]
    share = sum(map(len, kept.values())) / sum(widths.values())
    return PruningExperiment(pd.concat(frames, ignore_index=True), kept, share, whole)


@typechecked
def amplified(
    model: Any,
    other: object,
    cases: Sequence[Case],
    *,
    top: int,
    layers: Sequence[int],
    batch_size: int = 64,
    progress: bool = True,
) -> dict[int, list[int]]:
    """Return the MLP neurons of some layers that are in any case among the ``top`` that another model uses more.

    Args:
        model: The original model.
        other: An adapter of it, or a model of the same shape.
        cases: The cases.
        top: How many neurons of each case, of all layers.
        layers: The layers whose neurons are named.
        batch_size: Cases run together.
        progress: Whether to show a progress bar.

    Raises:
        IndexError: If a layer is out of range or named twice.
        ValueError: If there is no case, ``top`` is out of range, or no neuron of one of the layers is found.
        TypeError: If ``other`` is neither an adapter nor a model.
    """
    if not isinstance(other, Adapter) and not hasattr(other, "cfg"):
        raise TypeError(f"other must be an adapter of model or a model of the same shape, got {type(other).__name__}")
    found: set[MlpNeuron] = set()
    runs = paired_changes(
        plain(model),
        run_of(model, other),
        cases,
        top,
        largest=False,
        batch_size=batch_size,
        what="neurons used more",
        progress=progress,
    )
    for best in (changed.neurons for changed in runs):
        found |= {("mlp", la, i) for la, i in zip(best.flat("layer"), best.flat("index"), strict=True)}
    return kept_by_layer(model, sorted(found), layers)


def _named(neurons: Kept) -> list[MlpNeuron]:
    return [("mlp", layer, i) for layer, indices in neurons.items() for i in indices]


def _accuracy(name: str, model: Any, cases: Sequence[Case], adapter: Adapter | None = None) -> pd.DataFrame:
    """Return accuracies, one row per group of cases."""
    if adapter is not None:
        with adapter.attached(model):
            return _accuracy(name, model, cases)
    frame = pd.DataFrame({"group": [case.group for case in cases], "right": answered(model, cases)})
    both = pd.concat([frame.assign(group="all"), frame])
    counts = both.groupby("group", sort=False)["right"].agg(["size", "mean"]).reset_index()
    return counts.rename(columns={"size": "cases", "mean": "accuracy"}).assign(model=name)
