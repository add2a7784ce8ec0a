"""Comparative neuron analysis: the same neurons in two runs, and what the change did to a prediction (paper 3, 3.3).

    change = increase in the one run - increase in the other,
    increase(v) = log p(w | h + v) - log p(w | h)

where ``h`` and ``v`` are each run's own, while both are read out with the first run's final norm frozen and for the
same token, as the authors' code does. The second run may be of the same model with a head zeroed, of the same model on
another prompt, or of another model: fine-tuned, pruned, with an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.vocabulary import neuron_text
from tl_neuron_attr.model import cache_checks, dimensions
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored_cache import ScoredCache, as_scored, checked_stream
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.every_neuron import neuron_scores
from tl_neuron_attr.numerics.flat_index import best_of
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.neurons import COLUMNS, Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 20
_WORTH_TEXT = 100
"""How many neurons of the largest and of the smallest change have their tokens read out: all that a frame shows by
default. Those of every neuron would cost more than the comparison."""
_GRIDS = ("increase", "other_increase", "coefficient", "other_coefficient")


@dataclass(frozen=True, repr=False, eq=False)
class NeuronComparison(PrintsAsTable):
    """Every neuron of a site in two runs.

    MLP neurons have the shape ``*b layer d_mlp``, attention neurons ``*b layer head source d_head``; ``*b`` is absent
    where the caches had no batch dimension.

    Attributes:
        site: ``"mlp"`` or ``"attn"``.
        increase: Log-probability increase in the first run, in nats.
        other_increase: The same in the other run.
        coefficient: How far each neuron moved along its direction in the first run.
        other_coefficient: The same in the other run.
        batched: Whether there is a batch dimension.
        text: The tokens of the neurons that changed most, either way.
    """

    site: Site
    increase: Float[Tensor, "*b_layer_neuron"]
    other_increase: Float[Tensor, "*b_layer_neuron"]
    coefficient: Float[Tensor, "*b_layer_neuron"]
    other_coefficient: Float[Tensor, "*b_layer_neuron"]
    batched: bool
    text: NeuronText | None = None

    @property
    def change(self) -> Float[Tensor, "*b_layer_neuron"]:
        """The CNA score: what the first run has of each neuron's increase and the other has not, in nats."""
        return self.increase - self.other_increase

    def top(self, k: int, *, largest: bool = True) -> Neurons:
        """The ``k`` neurons of the largest change, of each case of a batch; the change is their ``score``.

        Coefficients are those of the first run.

        Args:
            k: How many.
            largest: False for the neurons that raise the token more in the other run.

        Raises:
            ValueError: If ``k`` is not between 1 and the number of neurons.
        """
        change = self._flat(self.change)
        if not 1 <= k <= change.shape[1]:
            raise ValueError(f"k must be between 1 and the {change.shape[1]} {self.site} neurons, got {k}")
        flat = torch.stack([best_of(row if largest else -row, k) for row in change])
        return self._named(flat, change.gather(1, flat)).squeeze(batched=self.batched)

    def summed(self) -> "NeuronComparison":
        """All cases of a batch as one: increases summed, coefficients averaged."""
        grids: dict[str, Any] = {name: self._case_mean(name) for name in _GRIDS}
        cases = self.increase.shape[0] if self.batched else 1
        for name in ("increase", "other_increase"):
            grids[name] = grids[name] * cases
        return replace(self, **grids, batched=False)

    def united(self, k: int) -> Neurons:
        """The neurons that are among the ``k`` of the largest change in any case, by their summed change.

        Raises:
            ValueError: If ``k`` is not between 1 and the number of neurons.
        """
        per_case = self.top(k)
        rows = per_case if self.batched else per_case.unsqueeze()
        whole = self.summed()
        flat = self._numbers(rows).unique()
        change = whole._flat(whole.change)[0, flat]
        order = change.sort(descending=True, stable=True).indices
        return whole._named(flat[order][None], change[order][None])[0]

    def other_coefficients(self, neurons: Neurons) -> Float[Tensor, "*b k"]:
        """What the other run has for the coefficients of ``neurons``, which come from :meth:`top` or :meth:`united`."""
        grid = self._flat(self.other_coefficient)
        found = grid.gather(1, self._numbers(neurons if neurons.batched else neurons.unsqueeze()))
        return found if neurons.batched else found[0]

    @classmethod
    def joined(cls, parts: "Sequence[NeuronComparison]") -> "NeuronComparison":
        """Batches of cases as one.

        Raises:
            ValueError: If there is none, or they are not of one shape.
        """
        if not parts:
            raise ValueError("parts is empty: give at least one comparison")
        if len({(part.site, part.batched, part.increase.shape[1:]) for part in parts}) > 1:
            raise ValueError("parts are not of one site and shape")
        grids: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _GRIDS}
        text = [part.text for part in parts if part.text is not None]
        return replace(parts[0], **grids, text=NeuronText.joined(text) if text else None)

    def table(self) -> Table:
        """The neurons of the largest change, in both runs; of a batch, all cases summed."""
        frame = self.to_frame(min(_SHOWN, self._flat(self.increase).shape[1]))
        columns = ("rank", "neuron", "change", "increase", "other_increase", "coefficient", "other_coefficient")
        promoted = ("promotes",) if "promoted" in frame else ()
        rows = [
            (*(row[name] for name in columns), *((listed(row["promoted"]),) if promoted else ()))
            for row in frame.to_dict("records")
        ]
        cases = f", {len(self.increase)} cases summed" if self.batched else ""
        return Table([*(name.replace("_", " ") for name in columns), *promoted], rows, f"in nats{cases}")

    def to_frame(self, k: int = 100) -> "pd.DataFrame":
        """The ``k`` neurons of the largest change, a row each, with both runs' increase and coefficient."""
        whole = self.summed() if self.batched else self
        best = whole.top(min(k, whole._flat(whole.increase).shape[1]))
        flat = whole._numbers(best.unsqueeze())[0]
        frame = best.to_frame().rename(columns={"score": "change"})
        for name in ("increase", "other_increase", "other_coefficient"):
            frame[name] = whole._flat(getattr(whole, name))[0, flat].tolist()
        return frame

    def _case_mean(self, name: str) -> Tensor:
        grid: Tensor = getattr(self, name)
        return grid.mean(0) if self.batched else grid

    def _flat(self, grid: Tensor) -> Float[Tensor, "case neuron"]:
        return grid.flatten(1) if self.batched else grid.flatten()[None]

    def _shape(self) -> torch.Size:
        """Layers, and what neurons are numbered by within one."""
        return self.increase.shape[1:] if self.batched else self.increase.shape

    def _numbers(self, neurons: Neurons) -> Int[Tensor, "case k"]:
        """The places of neurons of a batch among all, flattened."""
        shape = self._shape()
        if self.site == "mlp":
            return neurons.layer * shape[1] + neurons.index
        within = (neurons.head * shape[2] + neurons.source) * shape[3] + neurons.index
        return neurons.layer * shape[1:].numel() + within

    def _named(self, flat: Int[Tensor, "case k"], score: Float[Tensor, "case k"]) -> Neurons:
        at = torch.unravel_index(flat, self._shape())
        none = torch.full_like(flat, -1)
        return Neurons(
            site=torch.full_like(flat, SITES.index(self.site)),
            layer=at[0],
            head=at[1] if self.site == "attn" else none,
            source=at[2] if self.site == "attn" else none,
            index=at[-1],
            coefficient=self._flat(self.coefficient).gather(1, flat),
            score=score,
            text=self.text,
        )


@typechecked
@torch.no_grad()
def compare_neurons(
    cache: ActivationCache,
    other: ActivationCache,
    target: Target,
    *,
    site: Site = "mlp",
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    other_model: Any = None,
    max_bytes: int = MAX_BYTES,
) -> NeuronComparison:
    """Every neuron's increase of log p(target) in two runs, and its change (paper 3, section 3.3).

    The runs may differ in model, intervention or tokens, not in the shape of the model nor in that of the prompts: row
    ``b`` of the one is compared with row ``b`` of the other, at the same position.

    Args:
        cache: The run the change is counted from; its final norm, frozen, reads both runs out.
        other: The run it is compared with.
        target: The token followed: an id, a string that is one token, or one of them a prompt.
        site: MLP or attention neurons.
        pos: The position scored in both runs; the last by default.
        contrast: If given, increases are of ``log p(target) - log p(contrast)``.
        model: The model that made ``cache``; ``cache.model`` by default.
        other_model: The model that made ``other``; ``other.model`` by default.
        max_bytes: A cap on the working set, results not counted.

    Returns:
        ``.change``, ``.increase``, ``.other_increase`` (nats), ``.coefficient``, ``.other_coefficient``:
        ``Float["*b layer d_mlp"]``, or ``Float["*b layer head source d_head"]`` for attention neurons.

    Raises:
        ValueError: If the caches differ in shape, the two tokenizers do not share a token, or as
            :func:`~tl_neuron_attr.attribute_mlp_neurons`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> _, cache = model.run_with_cache("3 + 5 =")
        >>> with tna.ablate(model, [(3, 2)]):
        ...     _, without = model.run_with_cache("3 + 5 =")
        >>> found = compare_neurons(cache, without, "8")
        >>> len(found.top(10)), found.change.shape == found.coefficient.shape
        (10, True)
    """
    mine = as_scored(cache, target, (site,), pos=pos, contrast=contrast, model=model)
    found = _compared(mine, other, site, pos, other_model, max_bytes)
    return replace(found, text=_text(mine.stream, found))


def compare_without_text(
    cache: ActivationCache,
    other: ActivationCache,
    target: Target,
    *,
    site: Site = "mlp",
    contrast: Target | None = None,
) -> NeuronComparison:
    """Return :func:`compare_neurons` without tokens: for what runs over many cases and shows none of them."""
    return _compared(as_scored(cache, target, (site,), contrast=contrast), other, site, -1, None, MAX_BYTES)


def _compared(
    mine: ScoredCache, other: ActivationCache, site: Site, pos: Pos, other_model: Any, max_bytes: int
) -> NeuronComparison:
    stream = Stream(other, other_model)
    cache_checks.require_hooks(stream, (site,))
    _require_alike(mine.stream, stream, site)
    for tokens, name in ((mine.target, "target"), (mine.contrast, "contrast")):
        if tokens is not None:
            require_shared(mine.stream.model, stream.model, tokens, name)
    _, places, _ = checked_stream(other, (site,), pos=pos, model=other_model)
    theirs = replace(mine, stream=stream, places=places)
    increase, coefficient = _scored(mine, site, max_bytes)
    other_increase, other_coefficient = _scored(theirs, site, max_bytes)
    return NeuronComparison(
        site,
        mine.finish(increase),
        mine.finish(other_increase),
        mine.finish(coefficient),
        mine.finish(other_coefficient),
        batched=mine.stream.batched,
    )


def _text(stream: Stream, found: NeuronComparison) -> NeuronText:
    """Return the text of the neurons of the largest and smallest change: of all cases summed, and of each case."""
    whole = found.summed()
    n = whole.increase.numel()
    shown = [whole.top(min(_WORTH_TEXT, n), largest=largest) for largest in (True, False)]
    shown += [found.top(min(_SHOWN, n), largest=largest).flattened() for largest in (True, False)]
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in shown]) for name in COLUMNS}
    return neuron_text(stream.model, Neurons(**columns), stream.tokens())


def _scored(
    q: ScoredCache, site: Site, max_bytes: int
) -> tuple[Float[Tensor, "batch layer *neuron"], Float[Tensor, "batch layer *neuron"]]:
    """Increases and coefficients of every neuron."""
    scores: list[Tensor] = []
    coefficients: list[Tensor] = []
    for sublayer in q.checked_sublayers((site,)):
        for into, values in (
            (scores, neuron_scores(q.increase(site, sublayer.layer), sublayer, max_bytes=max_bytes)),
            (coefficients, sublayer.coefficients),
        ):
            by_head = values.unflatten(1, (sublayer.heads, -1)).transpose(2, 3)
            into.append(by_head if site == "attn" else values[..., 0])
    increase = torch.stack(scores, dim=1)
    cache_checks.require_finite(q.stream, increase, "the scores")
    return increase, torch.stack(coefficients, dim=1)


def _require_alike(mine: Stream, theirs: Stream, site: Site) -> None:
    """Refuse runs whose neurons or prompts do not correspond."""

    def facts(stream: Stream) -> dict[str, object]:
        batch, length, d_model = stream.shape
        widths = [dimensions.width(stream.model, site, layer) for layer in range(stream.n_layers)]
        return {
            "layers": stream.n_layers,
            "d_model": d_model,
            "MLP neurons by layer" if site == "mlp" else "heads and head dimensions by layer": widths,
            "vocabulary": dimensions.d_vocab(stream.model),
            "prompts": batch,
            "tokens a prompt": length,
            "a batch dimension": stream.batched,
        }

    ours, others = facts(mine), facts(theirs)
    for name, value in ours.items():
        if value != others[name]:
            raise ValueError(
                f"cache and other cannot be compared neuron by neuron: {name}: {value} in cache, {others[name]} in "
                "other"
            )


def require_shared(model: Any, other: Any, tokens: Int[Tensor, "batch"], name: str) -> None:
    """Refuse a token that stands for something else in the other model's vocabulary."""
    if model is other or model.tokenizer is None or other.tokenizer is None:
        return
    for token in tokens.unique().tolist():
        text, other_text = (tokenizer.convert_ids_to_tokens(token) for tokenizer in (model.tokenizer, other.tokenizer))
        if text != other_text:
            raise ValueError(
                f"{name} {token} is {text!r} to cache's tokenizer and {other_text!r} to other's: they do not share it"
            )
