"""What is common to all prompts: massive activations, and neurons that lead every prompt's lists.

Query neurons of a real language model are led by a few neurons whose activation at the first position is thousands of
times the layer's median (massive activations: Sun et al., 2024), which attention sinks are made of. Zeroing them costs
every prompt its answer. What is special about a prompt is what its lists hold beside them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.query_neurons import query_neurons
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model.activation_ratios import activation_ratios
from tl_neuron_attr.model.answer import answer
from tl_neuron_attr.model.dimensions import sizes_of
from tl_neuron_attr.model.scored import scored
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.targets import OneTarget, answer_of, contrast_each
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.common import CommonNeurons
from tl_neuron_attr.results.neurons import Neurons

MASSIVE = 1000.0
"""Times the median: about what Sun et al. (2024, section 2) call a massive activation, of hidden states."""


@typechecked
@torch.no_grad()
def common_neurons(
    model: Any,
    prompts: Sequence[str],
    *,
    targets: Sequence[OneTarget] | None = None,
    contrast: OneTarget | Sequence[OneTarget] | None = None,
    k: int = 100,
    share: float = 0.5,
    massive_ratio: float = MASSIVE,
    progress: bool = True,
) -> CommonNeurons:
    """Find neurons that are common to most prompts, whatever they ask for.

    A neuron is common if in more than ``share`` of the prompts its activation is massive, or it is among the prompt's
    ``k`` best value neurons, or among their ``k`` best query neurons. Prompts should be of many kinds: what all
    prompts of one kind share is knowledge of that kind.

    Args:
        model: The model.
        prompts: The prompts, two at least.
        targets: One answer per prompt: a token id, or a string or :class:`~tl_neuron_attr.Answer` of one or several
            tokens; by default the token that the model itself predicts.
        contrast: If given, neurons count by ``log p(target) - log p(contrast)``: one for all prompts or one each.
        k: How many of each prompt's best value and query neurons count.
        share: Of the prompts.
        massive_ratio: From how many times the layer's median on an MLP neuron's activation is massive.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are fewer than two prompts, targets or contrasts are not one per prompt, ``share`` is not
            between 0 and 1, ``massive_ratio`` or ``k`` is below 1, or a prompt, target or contrast is invalid.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> prompts = ["3 + 5 =", "Tim Duncan plays the sport of", "the nurse said that"]
        >>> found = common_neurons(tna.demo.load(), prompts, k=30, progress=False)
        >>> bool((found.frame[["massive", "value", "query"]].max(axis=1) > 0.5).all())
        True
    """
    _require(prompts, targets, k, share, massive_ratio)
    contrasts = contrast_each(contrast, len(prompts))
    counts = _Counts()
    for i, prompt in enumerate(tqdm(prompts, desc="common neurons", unit="prompt", disable=not progress, delay=2)):
        ids = prompt_ids(model, prompt)
        q = _scored(model, ids, None if targets is None else targets[i], contrasts[i], i)
        value = value_neurons(q, k=min(k, q.stream.neuron_count(("mlp", "attn"))), text=False)
        counts.count("value", value)
        counts.count("query", query_neurons(q, value, k=k, text=False))
        counts.activations(*activation_ratios(model, ids), massive_ratio)
    return CommonNeurons(counts.frame(len(prompts), share), len(prompts), k, massive_ratio, sizes_of(model))


def _scored(
    model: Any, ids: Int[Tensor, "pos"], target: OneTarget | None, contrast: OneTarget | None, prompt: int
) -> ScoredCache:
    """Return the scored cache of a prompt: of the token that the model predicts, or of an answer."""
    logits, cache = model.run_with_cache(ids[None])
    followed = answer_of(model, int(logits[0, -1].argmax()) if target is None else target, f"targets[{prompt}]")
    other = None if contrast is None else answer_of(model, contrast, f"contrast[{prompt}]")
    if len(followed) == 1 and (other is None or len(other) == 1):
        return scored(cache, followed.tokens[0], contrast=None if other is None else other.tokens[0])
    return answer(model, [ids], [followed], contrast=None if other is None else [other])


@dataclass
class _Counts:
    """In how many prompts each neuron was met, by what."""

    met: dict[str, Counter[str]] = field(default_factory=lambda: {n: Counter() for n in ("massive", "value", "query")})
    ratios: list[list[torch.Tensor]] = field(default_factory=list[list[torch.Tensor]])
    positions: list[list[torch.Tensor]] = field(default_factory=list[list[torch.Tensor]])

    def count(self, kind: str, neurons: Neurons) -> None:
        """Count a list, an attention neuron once whatever its sources."""
        self.met[kind].update({label.split("@")[0] for label in neurons.flat_labels})

    def activations(self, ratios: list[torch.Tensor], positions: list[torch.Tensor], massive_ratio: float) -> None:
        """Keep a prompt's ratios, and count those that are massive."""
        self.ratios.append(ratios)
        self.positions.append(positions)
        for layer, ratio in enumerate(ratios):
            indices = (ratio >= massive_ratio).nonzero()[:, 0].tolist()
            self.met["massive"].update(f"L{layer}N{index}" for index in indices)

    def frame(self, prompts: int, share: float) -> pd.DataFrame:
        """Return one row per neuron that is common, those of most query lists first."""
        labels = {label for met in self.met.values() for label, n in met.items() if n > share * prompts}
        rows = [
            {
                "neuron": label,
                **self._activation(label),
                **{kind: met[label] / prompts for kind, met in self.met.items()},
            }
            for label in sorted(labels)
        ]
        frame = pd.DataFrame(rows, columns=["neuron", "ratio", "position", *self.met])
        return frame.sort_values(["query", "ratio"], ascending=False, kind="stable", ignore_index=True)

    def _activation(self, label: str) -> dict[str, float | int]:
        """Return the median ratio of an MLP neuron and the position it is mostly largest at."""
        if "H" in label:
            return {"ratio": float("nan"), "position": -1}
        layer, index = map(int, label[1:].split("N"))
        ratio = torch.stack([each[layer][index] for each in self.ratios]).median()
        at = Counter(int(each[layer][index]) for each in self.positions).most_common(1)[0][0]
        return {"ratio": float(ratio), "position": at}


def _require(
    prompts: Sequence[str], targets: Sequence[OneTarget] | None, k: int, share: float, massive_ratio: float
) -> None:
    if len(prompts) < 2:
        raise ValueError(f"prompts must be at least two, got {len(prompts)}: nothing is common to one")
    if targets is not None and len(targets) != len(prompts):
        raise ValueError(f"targets must be one per prompt: {len(prompts)} prompts, {len(targets)} targets")
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    for name, value in (("k", k), ("massive_ratio", massive_ratio)):
        if not value >= 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
