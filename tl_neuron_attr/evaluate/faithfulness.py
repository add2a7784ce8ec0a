"""Do the neurons a method picks matter? Zero them and see what is left of the answer (paper 1, section 4.1)."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.evaluate.contrasted import contrasted_batches, require_contrasted
from tl_neuron_attr.evaluate.method_scores import (
    METHODS,
    UNTOUCHED,
    Method,
    OwnScore,
    named_methods,
)
from tl_neuron_attr.evaluate.outcome import METRICS
from tl_neuron_attr.evaluate.outcomes_by_method import outcomes_by_method, require_neurons
from tl_neuron_attr.evaluate.prompts import unnamed
from tl_neuron_attr.evaluate.rank_scores import RankScores
from tl_neuron_attr.model.answer_tokens import Answer, require_room
from tl_neuron_attr.model.batches import AnswerBatch, answer_batches
from tl_neuron_attr.model.targets import OneTarget, answer_of, contrast_each
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.intervals import ENDS, interval, named_interval, shown_interval
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import quoted

Asked = tuple[Answer, Answer | None]
"""An answer, and what it is compared with."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Faithfulness(PrintsAsTable):
    """What was left of each prompt's answer after zeroing each method's best neurons.

    Attributes:
        frame: One row per prompt, method and number of neurons: ``prompt``, ``score`` (the method, ``"none"`` for the
            untouched model), ``k``, ``rank``, ``reciprocal_rank``, ``prob``, ``log_prob`` (nats).
        k: The number of neurons of the table.
        problems: Why a prompt was left out, each by its place among the targets.
        contrasted: Whether targets were compared with a contrast: ``log_prob`` is then ``log p(target) -
            log p(contrast)`` and ``prob`` how many times as likely the target is.
    """

    frame: pd.DataFrame
    k: int
    problems: tuple[str, ...] = ()
    contrasted: bool = False

    @typechecked
    def summary(self, k: int | None = None) -> pd.DataFrame:
        """Return means over prompts with 95 % bootstrap intervals, one row per method, lowest log-probability first.

        Raises:
            ValueError: If nothing was measured at ``k``.
        """
        k = self.k if k is None else k
        if k not in set(self.frame["k"]):
            raise ValueError(f"k={k} was not measured; there are {sorted(set(self.frame['k']) - {0})}")
        chosen = self.frame[(self.frame["k"] == k) | (self.frame["score"] == UNTOUCHED)]
        rows: list[dict[str, Any]] = []
        for score, group in chosen.groupby("score"):
            rows.append({"score": score})
            for metric in METRICS:
                rows[-1] |= named_interval(metric, interval(group[metric]))
        return pd.DataFrame(rows).sort_values("log_prob", ignore_index=True)

    @typechecked
    def differences(self, reference: str = "log_prob_increase", k: int | None = None) -> pd.DataFrame:
        """Return how much less log-probability each method leaves than ``reference`` does, in nats, paired by prompt.

        One row per method: the mean over prompts and its 95 % bootstrap interval; both values of a prompt are drawn
        together, so that easy and hard prompts do not widen it. Above zero, the method picks better.

        Raises:
            ValueError: If nothing was measured at ``k``, or by ``reference``.
        """
        k = self.k if k is None else k
        chosen = self.frame[(self.frame["k"] == k) & (self.frame["score"] != UNTOUCHED)]
        left = chosen.pivot(index="prompt", columns="score", values="log_prob")
        if reference not in left:
            raise ValueError(f"reference={quoted(reference)} was not measured at k={k}; there are {sorted(left)}")
        rows = [
            {"score": name, **named_interval("difference", interval(left[reference] - left[name]))}
            for name in left
            if name != reference
        ]
        return pd.DataFrame(rows).sort_values("difference", ascending=False, ignore_index=True)

    @typechecked
    def by_fact(self, facts: Sequence[str]) -> "Faithfulness":
        """Return the same with one row per fact: the means over the prompts that word it.

        Several wordings of one fact are no independent prompts: intervals over them are too narrow, and those over
        facts are not.

        Args:
            facts: What each prompt of the call asks for, in their order; the same text for wordings of one fact.

        Raises:
            ValueError: If there is not one per prompt, or one is no plain text.
        """
        prompts = self.frame["prompt"].nunique() + len(self.problems)
        if len(facts) != prompts or not pd.api.types.is_integer_dtype(self.frame["prompt"]):
            raise ValueError(
                "facts must name the fact of each prompt of the call, once: "
                f"{plural(prompts, 'prompt')}, got {len(facts)}"
            )
        if problem := next((f"facts[{i}]: {why}" for i, fact in enumerate(facts) if (why := unnamed(fact))), None):
            raise ValueError(problem)
        named = self.frame.assign(prompt=self.frame["prompt"].map(dict(enumerate(facts))))
        metrics = ["rank", *METRICS]
        mean = named.groupby(["prompt", "k", "score"], as_index=False, sort=False)[metrics].mean()
        return replace(self, frame=mean[self.frame.columns])

    def curve(self) -> pd.DataFrame:
        """Return the mean over prompts of every metric, by method and number of neurons."""
        return self.frame.groupby(["score", "k"], as_index=False)[list(METRICS)].mean()

    def table(self) -> Table:
        """Return the paper's Table 2: a bigger drop means better chosen neurons."""
        rows = [
            (row["score"], *(shown_interval(*(row[f"{metric}{end}"] for end in ENDS)) for metric in METRICS))
            for row in self.summary().to_dict("records")
        ]
        count = self.frame["prompt"].nunique()
        what = "prompt" if pd.api.types.is_integer_dtype(self.frame["prompt"]) else "fact"
        where = f"{'each of ' if count > 1 else ''}{plural(count, what)}"
        caption = f"{plural(self.k, 'MLP neuron')} zeroed in {where}; mean and 95 % bootstrap interval"
        caption += f"; {len(self.problems)} left out" if self.problems else ""
        measured = ("times as likely", "log p less the contrast's (nats)")
        headings = measured if self.contrasted else ("probability", "log-probability (nats)")
        return Table(("score", "MRR", *headings), rows, caption)


@typechecked
def faithfulness(
    model: Any,
    prompts: Sequence[str],
    targets: Sequence[OneTarget],
    *,
    contrast: OneTarget | Sequence[OneTarget] | None = None,
    scores: Sequence[Method] = METHODS,
    k: int = 10,
    curve: Sequence[int] = (),
    own_scores: Mapping[str, OwnScore] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Faithfulness:
    """Zero each method's ``k`` best MLP neurons in each prompt, and measure the target's rank and probability.

    Neurons are chosen over all layers and zeroed at every position, as setting their parameters to zero would (paper 1,
    section 4.1). The paper's claim is that its score lowers all three metrics most.

    Args:
        model: The model.
        prompts: The prompts; the answer follows.
        targets: One answer per prompt: a token id, or a string or :class:`~tl_neuron_attr.Answer` of one or several
            tokens. Of several, log-probabilities and scores are sums over the tokens, and the rank is that of the worst
            token. A prompt whose target the model has no tokens for is left out.
        contrast: If given, neurons are picked by ``log p(target) - log p(contrast)``, and that is what is measured: one
            for all prompts or one each, lengths may differ. Of the methods, ``"log_prob_increase"``, ``"gradient"``,
            ``"integrated_gradients"`` and ``"random"`` can.
        scores: The methods; all of :data:`METHODS` by default. ``"random"`` draws neurons that are active.
        k: How many neurons of the table.
        curve: Further numbers of neurons to measure.
        own_scores: Scores of your own, by name, measured beside the others.
        batch_size: Prompts run together, of one length each.
        seed: Of the random neurons.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If prompts and targets or contrasts differ in number, a prompt is empty, no target can be read, a
            method cannot pick by a contrast, or a number of neurons is not between 1 and all there are, or a score of
            your own has the name of another, another shape than one score per neuron, or scores that are NaN, or meets
            a target of several tokens, or gradients are asked of a model in half precision.

    Warns:
        UserWarning: Naming targets and contrasts that cannot be read; they are in ``.problems``.

    Examples:
        >>> import torch
        >>> import tl_neuron_attr as tna
        >>> facts = tna.demo.facts("capital")[:2]
        >>> found = faithfulness(tna.demo.load(), [f.text for f in facts], [f.answer for f in facts],
        ...     scores=["log_prob_increase", "random"], progress=False)
        >>> found.summary()["score"].tolist()[0]
        'log_prob_increase'

        A score of your own, here the size of what each neuron writes, and two wordings of one fact counted as one:

        >>> def written(model, cache, tokens, target):
        ...     of_layers = zip([cache["post", layer][:, -1] for layer in range(model.cfg.n_layers)], model.W_out)
        ...     return torch.stack([post.abs() * W_out.norm(dim=1) for post, W_out in of_layers], dim=1)
        >>> asked = ["The capital of France is", "France has the capital"]
        >>> found = faithfulness(tna.demo.load(), asked, [" Paris", " Paris"], scores=["log_prob_increase"],
        ...     own_scores={"size written": written}, progress=False)
        >>> found.by_fact(["capital of France"] * 2).differences()["score"].tolist()
        ['size written']
    """
    if len(prompts) != len(targets):
        raise ValueError(
            f"targets must hold one answer per prompt: {plural(len(prompts), 'prompt')}, "
            f"{plural(len(targets), 'target')}"
        )
    counts = sorted({k, *curve})
    require_neurons(model, counts)
    methods = named_methods(scores, own_scores or {})
    if "" in prompts:
        raise ValueError(f"prompts[{list(prompts).index('')}] is empty")
    ids = [prompt_ids(model, prompt) for prompt in prompts]
    if contrast is not None:
        require_contrasted(list(methods))
    asked, problems = _asked(model, ids, targets, contrast_each(contrast, len(prompts)))
    _require_single(asked, own_scores or {})
    places = list(asked)
    batches = list(_batches([ids[i] for i in places], list(asked.values()), batch_size))
    ranks = RankScores(batches)
    frames: list[pd.DataFrame] = []
    total = len(asked) * (1 + len(methods) * len(counts))
    with tqdm(total=total, desc="faithfulness", unit="outcome", disable=not progress) as bar:
        for each in batches:
            batch = replace(each, indices=[places[at] for at in each.indices])
            for name, zeroed, outcome in outcomes_by_method(model, batch, methods, counts, seed, ranks):
                frames.append(outcome.frame().assign(prompt=batch.indices, score=name, k=zeroed))
                bar.update(len(batch.indices))
    frame = pd.concat(frames).sort_values(["prompt", "k", "score"], ignore_index=True)
    return Faithfulness(frame, k, problems, contrast is not None)


def _asked(
    model: Any, prompts: Sequence[Int[Tensor, "_"]], targets: Sequence[OneTarget], contrasts: Sequence[OneTarget | None]
) -> tuple[dict[int, Asked], tuple[str, ...]]:
    """Return what can be read, by its place, and what is wrong with the others.

    Raises:
        ValueError: If nothing can be read.
    """
    found: dict[int, Asked] = {}
    problems: list[str] = []
    for i, (ids, target, contrast) in enumerate(zip(prompts, targets, contrasts, strict=True)):
        name = f"targets[{i}]"
        try:
            answer = _read(model, ids, target, name)
            name = f"contrast[{i}]"
            found[i] = answer, None if contrast is None else _read(model, ids, contrast, name)
        except (ValueError, IndexError) as error:
            problems.append(why if (why := str(error)).startswith(name) else f"{name}: {why}")
    if problems and not found:
        raise ValueError(f"no target can be read; {problems[0]}")
    if problems:
        warnings.warn(f"{len(problems)} of {plural(len(targets), 'prompt')} left out; {problems[0]}", stacklevel=4)
    return found, tuple(problems)


def _read(model: Any, ids: Int[Tensor, "_"], target: OneTarget, name: str) -> Answer:
    answer = answer_of(model, target, name)
    require_room(model, len(ids), answer)
    return answer


def _batches(prompts: Sequence[Int[Tensor, "_"]], asked: Sequence[Asked], batch_size: int) -> Iterator[AnswerBatch]:
    contrasts = [contrast for _, contrast in asked if contrast is not None]
    if contrasts:
        return contrasted_batches(prompts, [answer for answer, _ in asked], contrasts, batch_size=batch_size)
    return answer_batches(prompts, [answer.tokens for answer, _ in asked], batch_size=batch_size)


def _require_single(asked: Mapping[int, Asked], own: Mapping[str, OwnScore]) -> None:
    """Refuse scores of the user's, which take one target id per prompt, where an answer is of several tokens."""
    for i, (answer, _) in asked.items():
        if own and len(answer) > 1:
            raise ValueError(
                f"own_scores {list(own)} take one token per prompt, and targets[{i}] is {len(answer)}, "
                f"{answer.text!r}: leave out own_scores, or give targets of one token"
            )
