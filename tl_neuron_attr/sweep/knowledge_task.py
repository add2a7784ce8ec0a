"""The knowledge study of paper 1, section 4, as rows: batches of prompts, and what zeroing their neurons costs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.evaluate.examine import (
    SUMMED,
    Sizes,
    all_sums,
    best_sums,
    layers_and_heads,
    layers_queried,
    zeroed_sets,
)
from tl_neuron_attr.evaluate.outcome import Outcome
from tl_neuron_attr.evaluate.select import KEPT, selection_status
from tl_neuron_attr.knowledge.attribution import attribute_attn_neurons, attribute_mlp_neurons
from tl_neuron_attr.knowledge.query_neurons import query_neurons
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.batches import predicting
from tl_neuron_attr.model.components import Component
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.scored import scored_predictions
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.sweep.knowledge_tables import Sums, knowledge_tables
from tl_neuron_attr.sweep.prompt_batches import PromptBatch, prompt_batches
from tl_neuron_attr.sweep.prompt_rows import left_out_rows, outcome_columns, prompt_records
from tl_neuron_attr.sweep.shard_task import Frames, Shard


@typechecked_fields
@dataclass(frozen=True)
class KnowledgeTask:
    """Score every kept prompt in full, zero its value and query neurons, then the best heads of every type.

    What :func:`~tl_neuron_attr.evaluate.knowledge_study` measures, but for the path of Figure 3, in batches. Items are
    prompts: ``prompt``, ``target``, ``type``.

    Attributes:
        sizes: How many neurons and heads.
        seed: Of the random neurons.
        batch_size: Prompts of one length run together.
        every_neuron: Whether to sum the scores of all neurons, of those above zero and of the best (paper 1, Table 5).
            The unembedding is read out with every neuron's direction once per batch.
    """

    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    batch_size: int = 16
    every_neuron: bool = False

    name = "knowledge"
    stages = ("scores", "cross")

    def described(self) -> dict[str, Any]:
        """Return the task's parameters."""
        return asdict(self)

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> "KnowledgeTask":
        """Return the task of what :meth:`described` returned."""
        sizes: Any = Sizes(**parameters["sizes"])
        return cls(**{**parameters, "sizes": sizes})

    def prepared(self, stage: str, shards: Iterable[pd.DataFrame]) -> dict[str, Any]:
        """Return each type's targets, which the selection rule compares; then each type's best heads."""
        if stage == "scores":
            return {"targets": _targets(shards)}
        sums = Sums()
        for frame in shards:
            sums.add(frame)
        return {
            "heads": {kind: self.sizes.best_heads(torch.from_numpy(mean)) for kind, mean in sums.means("heads").items()}
        }

    @torch.no_grad()
    def rows(self, stage: str, model: Any, shard: Shard, known: Mapping[str, Any]) -> pd.DataFrame:
        """Return one row per prompt; of ``cross``, one per prompt that was kept."""
        found: dict[int, dict[str, Any]] = {}
        items = shard.items
        if shard.before is None:
            found = left_out_rows(items)
        else:
            items = items.loc[shard.before["item"][shard.before["status"] == KEPT]]
        for batch in prompt_batches(model, items, batch_size=self.batch_size):
            made = _cross(model, batch, known) if shard.before is not None else self._scores(model, batch, known)
            found |= dict(zip(batch.indices, made, strict=True))
        return pd.DataFrame([found[int(item)] for item in items.index], columns=None if found else ["item", "type"])

    def tables(self, frames: Frames) -> dict[str, pd.DataFrame]:
        """Return the paper's tables."""
        return knowledge_tables(frames, self.sizes)

    def _scores(self, model: Any, batch: PromptBatch, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        logits, cache = model.run_with_cache(batch.tokens)
        logits = batch.predicting(logits)
        rivals = {kind: [tuple(target) for target in known["targets"][kind]] for kind in set(batch.types)}
        statuses = [
            selection_status(row, tuple(answer), rivals[kind])
            for row, answer, kind in zip(logits, batch.target.tolist(), batch.types, strict=True)
        ]
        kept = [i for i, status in enumerate(statuses) if status == KEPT]
        measured = iter(self._measured(model, batch, logits, cache, kept) if kept else [])
        for i, status in enumerate(statuses):
            yield {**batch.row(i), "status": status, **(next(measured) if status == KEPT else {})}

    def _measured(
        self,
        model: Any,
        batch: PromptBatch,
        logits: Float[Tensor, "batch token d_vocab"],
        cache: Any,
        kept: Sequence[int],
    ) -> list[dict[str, Any]]:
        """Return what is measured on the kept prompts of a batch."""
        at = torch.tensor(kept, device=logits.device)
        tokens, target = batch.tokens[at], batch.target[at]
        sizes = self.sizes.capped(model, tokens.shape[1])
        q = scored_predictions(cache, batch.target).select(at)
        mlp = value_neurons(q, k=max(sizes.value_mlp, sizes.query), sites=("mlp",), text=False)
        attn = value_neurons(q, k=sizes.value_attn, sites=("attn",), text=False)
        feeding = query_neurons(q, attn, sizes.query, sites=("mlp",), text=False)
        value_mlp = mlp.top(sizes.value_mlp)
        direct = layers_and_heads(q)
        columns = {
            **direct,
            **({"neuron_sums": _neuron_sums(q)} if self.every_neuron else {}),
            "heads": direct["heads"].flatten(1),
            **layers_queried(q, value_mlp, attn),
            **_places("value", mlp.top(min(sizes.query, len(mlp)))),
            **_places("query", feeding),
        }
        generators = [torch.Generator().manual_seed(self.seed + batch.indices[i]) for i in kept]
        by_condition = zip(*zeroed_sets(model, attn, value_mlp, feeding, generators), strict=True)
        found = [Outcome.of(logits[at], target), *(_without(model, tokens, target, list(s)) for s in by_condition)]
        columns |= outcome_columns(found)
        return prompt_records(columns)


def _neuron_sums(q: ScoredCache) -> Float[Tensor, "batch 8"]:
    """Return the sums of paper 1, Table 5, of attention, then of MLP neurons: in the order of ``tidy.SETS``."""
    grids = attribute_attn_neurons(q, progress=False), attribute_mlp_neurons(q, progress=False)
    best = [scores.topk(min(SUMMED, scores.shape[1])).values for scores in (grid.flatten(1) for grid in grids)]
    return torch.cat([sums for at in (0, 1) for sums in (all_sums(grids[at]), best_sums(best[at]))], dim=1)


def _targets(shards: Iterable[pd.DataFrame]) -> dict[str, list[list[int]]]:
    found: dict[str, set[tuple[int, ...]]] = {}
    for frame in shards:
        for kind, answer in zip(frame["type"], frame["target_ids"], strict=True):
            found.setdefault(str(kind), set()).update([tuple(map(int, answer))] if len(answer) else [])
    return {kind: [list(answer) for answer in sorted(answers)] for kind, answers in found.items()}


def _cross(model: Any, batch: PromptBatch, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield, of every prompt, the outcomes untouched and without the best heads of each type."""
    width = dimensions.n_heads(model, 0)
    sets: list[list[Component]] = [[], *([divmod(i, width) for i in heads] for heads in known["heads"].values())]
    found = [_without(model, batch.tokens, batch.target, [heads] * len(batch.indices)) for heads in sets]
    for i, record in enumerate(prompt_records(outcome_columns(found))):
        yield {**batch.row(i), **record}


def _without(
    model: Any, tokens: Int[Tensor, "batch pos"], target: Int[Tensor, "batch token"], lists: list[list[Component]]
) -> Outcome:
    with ablate(model, lists):
        return Outcome.of(predicting(model(tokens), target), target)


def _places(name: str, neurons: Neurons) -> dict[str, Tensor]:
    return {f"{name}_layer": neurons.layer, f"{name}_index": neurons.index, f"{name}_score": neurons.score}
