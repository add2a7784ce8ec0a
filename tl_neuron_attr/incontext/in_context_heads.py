"""In-context heads: the heads that carry in-context classification (paper 2, section on finding heads; second-hand)."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.incontext.greedy_search import greedy_search
from tl_neuron_attr.incontext.icl_batches import require_alike
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.label_heads import label_heads
from tl_neuron_attr.incontext.outcomes import BATCH_SIZE, Among, Outcomes, accuracy, outcomes, outcomes_without
from tl_neuron_attr.incontext.ranking import Combine, Measure, choose, matrix, pairs, static_frame, with_causal
from tl_neuron_attr.incontext.static_scores import Followed, static_scores
from tl_neuron_attr.model.components import Head
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.intervals import shown_interval
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

_HINTS = ("more demonstrations", "other label words", "among='labels': answers compared among the labels only")
NOTHING = "nothing"
"""The name of the untouched model's row among the sets of heads zeroed."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class InContextHeads(PrintsAsTable):
    """The heads found, every head's scores, and the cost of zeroing them.

    Attributes:
        frame: One row per head: ``layer``, ``head``, ``attention`` (to labels, from the last position), ``static``
            (nats), ``static_<label>``, ``causal`` (accuracy lost, NaN if the head was not zeroed), ``causal_<label>``
            (by right label), ``lost_vocabulary``, ``lost_labels`` (accuracy lost over the vocabulary, and among the
            labels), ``log_odds`` (log-odds of the right label lost, in nats), ``candidate``, ``found``.
        zeroed: One row per set of heads: ``zeroed``, ``heads`` (their number), ``accuracy``, ``low``, ``high``,
            ``accuracy_<label>`` (by right label), ``in_vocabulary`` and ``among_labels`` (the accuracy either way),
            ``log_prob``, ``log_odds``.
        label_heads: The label that each found head serves more, one row per head: see
            :func:`~tl_neuron_attr.incontext.label_heads.label_heads`.
        search: See :func:`~tl_neuron_attr.incontext.greedy_search.greedy_search`; empty without a search.
        labels: The label words.
        chance: The accuracy of always giving the most frequent label.
        among: What an answer competed with in ``accuracy`` and ``causal``.
        does_task: Whether the model's accuracy is above chance by more than its 95 % interval.
    """

    frame: pd.DataFrame
    zeroed: pd.DataFrame
    label_heads: pd.DataFrame
    search: pd.DataFrame
    labels: tuple[str, ...]
    chance: float
    among: Among
    does_task: bool

    @property
    def heads(self) -> list[Head]:
        """Return the heads found, best first; none if the model does not do the task."""
        return pairs(self.frame[self.frame["found"]])

    @property
    def by_label(self) -> dict[str, list[Head]]:
        """Return the found heads that serve one label more than the others ("fooheads", "barheads")."""
        return _by_label(self.label_heads, self.labels)

    @property
    def smallest(self) -> list[Head]:
        """Return the smallest set that the search found; empty without a search, or if it did not reach chance."""
        if self.search.empty or self.search["low"].iloc[-1] > self.chance:
            return []
        return pairs(self.search)

    @typechecked
    def scores(self, name: str) -> Float[Tensor, "layer head"]:
        """Return a column of the frame as a matrix.

        Raises:
            KeyError: If there is no such column.
        """
        return matrix(self.frame, name)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head."""
        return self.frame

    def table(self) -> Table:
        """Return a table of the heads found, or one that says that the model does not do the task."""
        base = self.zeroed.iloc[0]
        reached = (
            f"accuracy {shown_interval(base['accuracy'], base['low'], base['high'])} (over the vocabulary "
            f"{base['in_vocabulary']:.3f}, among labels {base['among_labels']:.3f}, log-odds {base['log_odds']:+.2f}), "
            f"chance {self.chance:.3f}"
        )
        if not self.does_task:
            caption = "the model does not do this task, so no heads were searched: " + reached
            return Table(("what may help",), [(hint,) for hint in _HINTS], caption)
        columns = ("attention", "static", "causal", "log_odds")
        labels = {(r["layer"], r["head"]): r["label"] for r in self.label_heads.to_dict("records")}
        rows = [
            (f"L{r['layer']}H{r['head']}", labels[r["layer"], r["head"]], *(float(r[c]) for c in columns))
            for r in self.frame[self.frame["found"]].to_dict("records")
        ]
        caption = f"in-context heads; untouched {reached}"
        return Table(("head", "serves", "attention", "static (nats)", "accuracy lost", "log-odds lost"), rows, caption)


@typechecked
@torch.no_grad()
def in_context_heads(
    model: Any,
    prompts: Sequence[IclPrompt],
    *,
    n: int | None = None,
    combine: Combine = "rank",
    causal: Measure = "accuracy",
    among: Among = "vocabulary",
    label: Followed = "predicted",
    layers: Sequence[int] | None = None,
    min_attention: float = 0.0,
    screen: bool = False,
    search: int = 0,
    random_sets: int = 10,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: bool = True,
) -> InContextHeads:
    """Find the heads that carry in-context classification: by what they write, and by what is lost without them.

    This combines the paper's two scores (second-hand). The static score is the increase of the predicted label's
    log-probability by the head's output; the causal score is the accuracy lost when the head is zeroed. Heads are
    chosen on one half of the prompts, and the cost of zeroing them is measured on the other half. Zeroing one head at
    a time misses redundant heads; ``search`` looks for sets of them.

    Args:
        model: The model.
        prompts: In-context prompts with one set of labels.
        n: The number of heads; by default 12 as in the paper, but at most a fifth of all heads.
        combine: ``"rank"`` takes the ``n`` best sums of both ranks, ``"union"`` and ``"intersection"`` combine the
            ``n`` best of each score. How the paper makes 12 heads of its two top-10 lists is unknown to us.
        causal: The causal ranking: by accuracy lost (ties by log-odds), or by log-odds of the right label lost.
        among: Whether a right answer must be the likeliest of all tokens, or only of the labels.
        label: The label that the static score follows.
        layers: The layers to search; all by default. The paper searches deep ones.
        min_attention: The least mean attention to labels that a candidate must pay.
        screen: Whether to zero only the ``4 * n`` heads with the best static scores.
        search: The largest set of heads to search for greedily; 0 for no search.
        random_sets: The number of random sets of the same size that are zeroed for comparison.
        batch_size: The most prompts in one forward pass, counting copies.
        seed: The seed of the halves and the random sets.
        progress: Whether to show progress bars.

    Returns:
        :class:`InContextHeads`. If the model's accuracy is not above chance by its interval, it says so and has no
        heads.

    Raises:
        ValueError: If there are too few prompts, they have different labels, no candidate is left, ``n`` is below 1,
            or ``search`` or ``random_sets`` is negative.
        IndexError: If a layer is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompts = tna.incontext.from_demo(model, tna.demo.in_context(40, 4, query="strong"))
        >>> options = {"causal": "log_odds", "random_sets": 2, "progress": False}
        >>> found = in_context_heads(model, prompts, n=4, layers=[2, 3], **options)
        >>> log_odds = found.zeroed.set_index("zeroed")["log_odds"]  # of the right label, after zeroing
        >>> bool(log_odds["found heads"] < log_odds["random heads, mean of 2 sets"])
        True
    """
    require_alike(prompts)
    for name, least, count in (("n", 1, n), ("search", 0, search), ("random_sets", 0, random_sets)):
        if count is not None and count < least:
            raise ValueError(f"{name} must be {least} or more, got {count}")
    for layer in layers or ():
        within("layers", layer, model.cfg.n_layers)
    labels = prompts[0].labels
    seen, measured = _halves(prompts, seed)
    result = outcomes(model, prompts, batch_size=batch_size)
    base, chance = accuracy(result, labels, among=among), float(torch.bincount(result.gold).max()) / len(prompts)
    static = static_scores(model, seen, label=label, batch_size=min(batch_size, 64), progress=progress)
    frame = static_frame(static, labels)
    if not base["low"] > chance:  # no interval, no evidence
        untouched = pd.DataFrame([{"zeroed": NOTHING, "heads": 0} | base])
        frame, by_label = frame.assign(candidate=False, found=False), label_heads(result, result[None][:0], [], labels)
        return InContextHeads(frame, untouched, by_label, pd.DataFrame(), labels, chance, among, False)

    n = min(12, max(1, len(frame) // 5)) if n is None else n
    allowed = _allowed(frame, layers, min_attention)
    candidates = pairs(allowed.nlargest(4 * n, "static") if screen else allowed)
    before = outcomes(model, seen, batch_size=batch_size)
    without = outcomes_without(model, seen, [[h] for h in candidates], batch_size=batch_size, progress=progress)
    frame = choose(with_causal(frame, candidates, before, without, labels, among), n, combine, causal)
    found = pairs(frame[frame["found"]])
    serving = label_heads(before, without[[candidates.index(head) for head in found]], found, labels)
    others = [head for head in pairs(_of_layers(frame, layers)) if head not in found]
    sets = _sets(found, _by_label(serving, labels), others, random_sets, seed)
    result = outcomes_without(model, measured, [zeroed for _, zeroed in sets], batch_size=batch_size)
    searched = greedy_search(
        model, seen, measured, candidates, found + others, largest=search, chance=chance, among=among,
        random_sets=random_sets, batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    return InContextHeads(frame, _zeroed(result, sets, labels, among), serving, searched, labels, chance, among, True)


def _halves(prompts: Sequence[IclPrompt], seed: int) -> tuple[list[IclPrompt], list[IclPrompt]]:
    """Return the prompts as two random halves with the same right labels.

    Raises:
        ValueError: If there are too few prompts.
    """
    order = list(range(len(prompts)))
    random.Random(f"halves {seed}").shuffle(order)
    order.sort(key=lambda i: prompts[i].gold)
    halves = [prompts[i] for i in order[::2]], [prompts[i] for i in order[1::2]]
    golds = [{prompt.gold for prompt in half} for half in halves]
    if golds[0] != golds[1]:
        raise ValueError(
            f"prompts are too few: {len(prompts)} do not give two halves with the same right labels; give at least two "
            "prompts of every right label"
        )
    return halves


def _of_layers(frame: pd.DataFrame, layers: Sequence[int] | None) -> pd.DataFrame:
    return frame if layers is None else frame[frame["layer"].isin(list(layers))]


def _allowed(frame: pd.DataFrame, layers: Sequence[int] | None, min_attention: float) -> pd.DataFrame:
    """Return the heads of the given layers that pay enough attention to labels.

    Raises:
        ValueError: If no head is left.
    """
    inside = _of_layers(frame, layers)
    kept = inside[inside["attention"] >= min_attention]
    if kept.empty:
        raise ValueError(
            f"no head is left: min_attention={min_attention}, and the greatest mean attention to labels of the "
            f"{len(inside)} heads in the given layers is {inside['attention'].max():.3f}; lower it"
        )
    return kept


def _by_label(serving: pd.DataFrame, labels: Sequence[str]) -> dict[str, list[Head]]:
    return {word: pairs(serving[serving["label"] == word]) for word in labels}


def _sets(
    found: list[Head], by_label: Mapping[str, list[Head]], others: list[Head], random_sets: int, seed: int
) -> list[tuple[str, list[Head]]]:
    """Return the sets of heads to zero for comparison, each with a name that random sets share."""
    rng = random.Random(f"sets {seed}")
    drawn = [rng.sample(others, min(len(found), len(others))) for _ in range(random_sets)]
    name = f"random heads, mean of {plural(random_sets, 'set')}"
    serving = [(f"{word} heads", heads) for word, heads in by_label.items() if heads]
    return [
        (NOTHING, []), ("found heads", found), *((name, each) for each in drawn), ("all others", others), *serving
    ]  # fmt: skip


def _zeroed(
    result: Outcomes, sets: Sequence[tuple[str, list[Head]]], labels: Sequence[str], among: Among
) -> pd.DataFrame:
    """Return the cost of zeroing each set; for random sets, the mean over sets and prompts."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for name, _ in sets):
        mine = [i for i, (other, _) in enumerate(sets) if other == name]
        rows.append({"zeroed": name, "heads": len(sets[mine[0]][1])} | accuracy(result[mine], labels, among=among))
    return pd.DataFrame(rows)
