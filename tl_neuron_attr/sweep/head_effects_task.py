"""What zeroing each head does to the answer, prompt by prompt (paper 3, section 3.2), as rows of a study."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.cna.head_effects import head_effects
from tl_neuron_attr.sweep.knowledge_tables import Sums, head_table
from tl_neuron_attr.sweep.prompt_batches import prompt_batches
from tl_neuron_attr.sweep.prompt_rows import left_out_rows
from tl_neuron_attr.sweep.shard_task import Frames, Shard


@typechecked_fields
@dataclass(frozen=True)
class HeadEffectsTask:
    """Zero every head alone, in every prompt. Items are prompts: ``prompt``, ``target``, ``type``.

    Attributes:
        batch_size: Prompts of one length run together.
    """

    batch_size: int = 16

    name = "head_effects"
    stages = ("effects",)

    def described(self) -> dict[str, Any]:
        """Return the task's parameters."""
        return asdict(self)

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> "HeadEffectsTask":
        """Return the task of what :meth:`described` returned."""
        return cls(**parameters)

    def prepared(self, stage: str, shards: Iterable[pd.DataFrame]) -> dict[str, Any]:
        """Return nothing: a prompt's effects depend on no other prompt."""
        return {}

    def rows(self, stage: str, model: Any, shard: Shard, known: Mapping[str, Any]) -> pd.DataFrame:
        """Return one row per prompt: ``log_prob`` untouched and ``heads``, its change in nats with each head zeroed."""
        nothing = dict.fromkeys(("log_prob", "heads", "layers"))
        found = {item: {**row, **nothing} for item, row in left_out_rows(shard.items).items()}
        for batch in prompt_batches(model, shard.items, batch_size=self.batch_size):
            effects = head_effects(model, batch.prompts, batch.answers, progress=False)
            change = effects.log_prob - effects.base_log_prob[:, None, None]
            for i, item in enumerate(batch.indices):
                heads = change[i].flatten().cpu().numpy().astype(np.float32)
                found[item] |= {"log_prob": float(effects.base_log_prob[i]), "heads": heads, "layers": len(change[i])}
        return pd.DataFrame(list(found.values()))

    def tables(self, frames: Frames) -> dict[str, pd.DataFrame]:
        """Return the mean change of ``log p`` by type and head, in nats, with its interval."""
        sums, layers = Sums(), 1
        for frame in frames("effects"):
            sums.add(frame)
            layers = int(frame["layers"].max()) if frame["layers"].notna().any() else layers
        return {"heads": head_table(sums, layers)}
