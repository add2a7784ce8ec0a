"""What is left of the answer without each method's best neurons (paper 1, section 4.1), as rows of a study."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.evaluate.method_scores import METHODS, UNTOUCHED, AnyMethod, Method
from tl_neuron_attr.evaluate.outcome import METRICS
from tl_neuron_attr.evaluate.outcomes_by_method import outcomes_by_method, require_neurons
from tl_neuron_attr.evaluate.rank_scores import RankScores
from tl_neuron_attr.sweep.knowledge_tables import Statuses, Sums, mean_rows, measured_rows
from tl_neuron_attr.sweep.prompt_batches import prompt_batches
from tl_neuron_attr.sweep.prompt_rows import left_out_rows, outcome_columns, prompt_records
from tl_neuron_attr.sweep.shard_task import Frames, Shard

_MEASURED = "measured"
_REFERENCE: Method = "log_prob_increase"
"""The paper's score, to which the others are compared."""


@typechecked_fields
@dataclass(frozen=True)
class FaithfulnessTask:
    """Zero each method's best MLP neurons in every prompt. Items are prompts: ``prompt``, ``target``, ``type``.

    What :func:`~tl_neuron_attr.evaluate.faithfulness` measures, but for scores of your own.

    Attributes:
        scores: The methods.
        counts: How many neurons are zeroed, each number in turn.
        seed: Of the random neurons.
        batch_size: Prompts of one length run together.
    """

    scores: Sequence[Method] = METHODS
    counts: Sequence[int] = (10,)
    seed: int = 0
    batch_size: int = 16

    name = "faithfulness"
    stages = ("left",)

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing, and what is named twice."""
        for name, values in (("scores", self.scores), ("counts", self.counts)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must hold at least one, each once, got {list(values)}")
        if min(self.counts) < 1:
            raise ValueError(f"counts must be at least 1, got {min(self.counts)}")
        object.__setattr__(self, "scores", tuple(self.scores))
        object.__setattr__(self, "counts", tuple(sorted(self.counts)))

    def described(self) -> dict[str, Any]:
        """Return the task's parameters."""
        return {**asdict(self), "scores": list(self.scores), "counts": list(self.counts)}

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> "FaithfulnessTask":
        """Return the task of what :meth:`described` returned."""
        return cls(**parameters)

    def prepared(self, stage: str, shards: Iterable[pd.DataFrame]) -> dict[str, Any]:
        """Return nothing: what is left of an answer depends on no other prompt."""
        return {}

    def rows(self, stage: str, model: Any, shard: Shard, known: Mapping[str, Any]) -> pd.DataFrame:
        """Return one row per prompt: ``rank``, ``prob`` and ``log_prob`` (nats), a list with one value per condition.

        Raises:
            ValueError: If the model has fewer MLP neurons than are to be zeroed.
        """
        require_neurons(model, self.counts)
        found = left_out_rows(shard.items)
        methods: dict[str, AnyMethod] = {method: method for method in self.scores}
        batches = list(prompt_batches(model, shard.items, batch_size=self.batch_size))
        ranks = RankScores(batches)
        for batch in batches:
            left = outcomes_by_method(model, batch, methods, self.counts, self.seed, ranks)
            records = prompt_records(outcome_columns([outcome for *_, outcome in left]))
            for item, record in zip(batch.indices, records, strict=True):
                found[item] |= {"status": _MEASURED, **record}
        return pd.DataFrame(list(found.values()))

    def tables(self, frames: Frames) -> dict[str, pd.DataFrame]:
        """Return means over prompts with 1.96 standard errors on either side, by method and number of neurons.

        ``methods``: over all prompts; ``by_type``; ``differences``: how much less log-probability a method leaves than
        the paper's score, in nats, paired by prompt, above zero if it picks better (empty without that score);
        ``statuses``: how many prompts were measured, or why not.
        """
        statuses, pooled, by_type = Statuses(), Sums(), Sums()
        for frame in frames("left"):
            statuses.add(frame)
            measured = measured_rows(frame)
            measured = measured.assign(difference=[self._differences(row) for row in measured.get("log_prob", [])])
            pooled.add(measured.assign(type=""), (*METRICS, "difference"))
            by_type.add(measured, METRICS)
        differences = self._table(pooled, ["difference"] if _REFERENCE in self.scores else [])
        others = differences[~differences["score"].isin([UNTOUCHED, _REFERENCE])]
        return {
            "methods": self._table(pooled, METRICS).drop(columns="type"),
            "by_type": self._table(by_type, METRICS),
            "differences": others.drop(columns="type").reset_index(drop=True),
            "statuses": statuses.counted(),
        }

    @property
    def _conditions(self) -> list[tuple[str, int]]:
        """The order in which :func:`outcomes_by_method` yields them."""
        return [(UNTOUCHED, 0), *((score, k) for score in self.scores for k in self.counts)]

    def _differences(self, log_prob: Any) -> Any:
        """Return by condition how much less is left than without as many neurons of the paper's score."""
        if _REFERENCE not in self.scores:
            return np.zeros(len(log_prob))
        left = np.asarray(log_prob, np.float64)
        at = {condition: i for i, condition in enumerate(self._conditions)}
        return np.array([left[at.get((_REFERENCE, k), 0)] for _, k in self._conditions]) - left

    def _table(self, sums: Sums, columns: Iterable[str]) -> pd.DataFrame:
        """Return one row per type, method and number of neurons, the mean of each column and its interval."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for column in columns:
            for mean in mean_rows(sums, column):
                score, k = self._conditions[mean["at"]]
                row = rows.setdefault((mean["type"], mean["at"]), {"type": mean["type"], "score": score, "k": k})
                row |= {column: mean["score"], f"{column}_low": mean["score_low"], f"{column}_high": mean["score_high"]}
        return pd.DataFrame(list(rows.values()), columns=None if rows else ["type", "score", "k"])
