"""A whole answer, or several right ones: sums over its tokens, and the part of a page that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from tl_neuron_attr.evaluate.verify import Verified
from tl_neuron_attr.knowledge.attribution import attribute_heads, attribute_layers, source_scores_of_heads
from tl_neuron_attr.knowledge.flow import Flow, trace
from tl_neuron_attr.knowledge.followed import followed_text
from tl_neuron_attr.knowledge.query_neurons import query_neurons
from tl_neuron_attr.knowledge.token_words import TokenWords
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.vis.charts import head_heatmap
from tl_neuron_attr.vis.flow import flow
from tl_neuron_attr.vis.head_rows import best_heads, lowest_heads
from tl_neuron_attr.vis.headline import WORDS, Without
from tl_neuron_attr.vis.measured import measured
from tl_neuron_attr.vis.neuron_rows import NeuronRow, most_of, neuron_rows
from tl_neuron_attr.vis.one_token import OneToken, Shown, lowering, only, sources_view
from tl_neuron_attr.vis.page_data import page_data, records
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.views import layer_scores, tokens_of

_COLUMNS = 6
"""Tokens of the longest answer that has a column for each; of a longer one, the token a row adds most to."""


@dataclass(frozen=True)
class SumRow:
    """A head, and what it adds to an answer.

    Attributes:
        name: ``L12H2``.
        score: What it adds to log p(answer), in nats.
        by_token: What it adds to each of the answer's tokens; none where scores are no sums over tokens.
    """

    name: str
    score: float
    by_token: tuple[tuple[str, float], ...] = ()

    @property
    def most(self) -> tuple[str, float] | None:
        """The token it adds most to, in the direction of the score, and how much."""
        return most_of(self.by_token, self.score)


@dataclass(frozen=True)
class WholeAnswer:
    """All that was computed for an answer as a whole.

    Attributes:
        q: What it was computed from.
        text: The answer, or several right ones.
        contrast: What it is compared with; empty for nothing.
        tokens: What was computed for each of its tokens; none where scores are no sums over tokens.
        layers: The scores of layers.
        heads: The scores of heads.
        value: The value neurons.
        suppressing: The neurons that lower it most, if any were asked for.
        query: The query neurons, where there are any.
        flow: The flow, where it is one run's.
        verified: What taking the value neurons out costs, where it was measured.
    """

    q: ScoredCache
    text: str
    contrast: str
    tokens: tuple[OneToken, ...]
    layers: LayerScores
    heads: Float[Tensor, "layer head"]
    value: Neurons
    suppressing: Neurons | None
    query: Neurons | None
    flow: Flow | None
    verified: Verified | None

    @classmethod
    def of(cls, q: ScoredCache, tokens: Sequence[OneToken], shown: Shown) -> "WholeAnswer":
        """Compute everything from a scored cache of one prompt's answers, and from what was computed for its tokens."""
        contrasts, value = followed_text(q).contrasts, only(value_neurons(q, k=shown.k))
        shown.done()
        suppressing = lowering(q, shown.suppressing)
        shown.done()
        verified = _measured(tokens, value) if tokens and shown.measure else None
        shown.done()
        followed = q.token_places is not None
        query = only(query_neurons(q, value, shown.queries)) if followed and shown.queries else None
        one_run = followed and len(q.places.row.unique()) == 1
        traced = trace(q, value=value, heads=2 * shown.heads, queries=shown.queries) if one_run else None
        shown.done()
        layers = attribute_layers(q)
        return cls(
            q=q,
            text=q.followed[0],
            contrast=contrasts[0] if contrasts else "",
            tokens=tuple(tokens),
            layers=LayerScores(attn=layers.attn.reshape(-1), mlp=layers.mlp.reshape(-1)),
            heads=attribute_heads(q).reshape(q.stream.n_layers, -1),
            value=value if verified is None else replace(verified.neurons, text=value.text),
            suppressing=suppressing,
            query=query,
            flow=traced,
            verified=verified,
        )

    @property
    def log_prob(self) -> float:
        """The log-probability of the answer, less that of the contrast."""
        return float(self.q.log_prob.reshape(-1)[0])

    @property
    def prob(self) -> float:
        """The probability of the answer; of one against another, how many times as likely it is."""
        return exp(self.log_prob)

    @property
    def total(self) -> float:
        """What all layers added."""
        return float(self.layers.attn.sum() + self.layers.mlp.sum())

    @property
    def hold(self) -> float:
        """What the value neurons added."""
        return float(self.value.score.sum())

    @property
    def without(self) -> Without | None:
        """What is left without the value neurons, where it was measured."""
        if self.verified is None:
            return None
        after = self.verified.log_prob - self.verified.joint[len(self.value)]
        return Without(exp(self.verified.log_prob), exp(after))

    def by_token(self, scores: Sequence[float]) -> tuple[tuple[str, float], ...]:
        """Return scores of tokens with the tokens' texts."""
        return tuple((one.prediction.text, score) for one, score in zip(self.tokens, scores, strict=True))


ANSWER_STEPS = 5
"""How often :meth:`WholeAnswer.of` and :func:`answer_tab` say that something is done."""


def answer_tab(found: WholeAnswer, shown: Shown) -> Markup:
    """Return the part of a page on a whole answer; those on its tokens are the next."""
    best, worst = best_heads(found.heads, shown.heads), lowest_heads(found.heads, min(shown.heads, shown.suppressing))
    neurons = _neuron_rows(found, shown)
    heads = {"heads": _head_rows(found, best), "suppressing heads": _head_rows(found, worst)}
    words = neurons["value"][0].promoted.words_first[:WORDS]
    body = render(
        "whole_answer.html.j2",
        found=found,
        name=shown.name,
        searched=found.q.stream.neuron_count(("attn", "mlp")),
        words=words,
        heads=heads,
        neurons_rows=neurons,
        best_head=_best_head,
        columns=_columns(found),
        layers=layer_scores(found.layers).body,
        heatmap=head_heatmap(found.heads),
        sources=_sources(found, best),
        flow=Markup() if found.flow is None else flow(found.flow).body,
        data=page_data(_data(shown.name, found, heads, neurons)),
    )
    shown.done()
    return body


def _best_head(one: OneToken) -> tuple[str, float]:
    (at,) = best_heads(one.heads, 1)
    return head_name(*at), float(one.heads[at])


def _columns(found: WholeAnswer) -> list[str]:
    return [one.prediction.text for one in found.tokens] if len(found.tokens) <= _COLUMNS else []


def _measured(tokens: Sequence[OneToken], value: Neurons) -> Verified | None:
    """Return what taking neurons out costs the whole answer: the costs of its tokens, each measured at its place."""
    at_tokens = value.per_token
    found = [measured(one.q, at_tokens[i]) for i, one in enumerate(tokens)]
    each = [one for one in found if one is not None]
    if len(each) < len(found):
        return None
    effects = torch.stack([torch.as_tensor(one.neurons.effect) for one in each])
    joint = {n: sum(one.joint[n] for one in each) for n in each[0].joint}
    return Verified(replace(value, effect=effects.sum(0)), sum(one.log_prob for one in each), joint)


def _neuron_rows(found: WholeAnswer, shown: Shown) -> dict[str, list[NeuronRow]]:
    words = TokenWords(found.q.stream.model, found.q.readout)
    rows: dict[str, list[NeuronRow]] = {}
    for name, of in (("value", found.value), ("suppressing", found.suppressing), ("query", found.query)):
        rows[name] = [] if of is None else neuron_rows(found.q, of, words, catalogue=shown.catalogue)
        if of is not None and of.token_score is not None and found.tokens:
            shares = [found.by_token(scores) for scores in of.token_score.T.tolist()]
            rows[name] = [replace(row, by_token=share) for row, share in zip(rows[name], shares, strict=True)]
    return rows


def _head_rows(found: WholeAnswer, heads: Sequence[Head]) -> list[SumRow]:
    return [
        SumRow(head_name(*at), float(found.heads[at]), found.by_token([float(one.heads[at]) for one in found.tokens]))
        for at in heads
    ]


def _sources(found: WholeAnswer, best: list[Head]) -> Markup:
    """Return the picture of what the best heads read, added up over the tokens; none where scores are no sums."""
    if not found.tokens:
        return Markup()
    each = [source_scores_of_heads(one.q, best) for one in found.tokens]
    longest = len(found.tokens[-1].tokens)
    added = {at: torch.stack([of[at] for of in each]).sum(0)[:longest] for at in best}
    return sources_view(tokens_of(found.q.stream, 0)[:longest], added, best)


def _data(
    name: str, found: WholeAnswer, heads: dict[str, list[SumRow]], neurons: dict[str, list[NeuronRow]]
) -> dict[str, object]:
    """Return everything on the part as plain data."""
    by_head = {
        kind: [{"head": row.name, "score": row.score, "by_token": [score for _, score in row.by_token]} for row in rows]
        for kind, rows in heads.items()
    }
    return {
        "model": name,
        "answer": found.text,
        "contrast": found.contrast or None,
        "answer_tokens": [one.prediction.text for one in found.tokens],
        "log_prob": found.log_prob,
        "token_log_probs": [one.prediction.log_prob for one in found.tokens],
        "layers": {"attn": found.layers.attn.tolist(), "mlp": found.layers.mlp.tolist()},
        "heads": found.heads.tolist(),
        "without": None if found.verified is None else found.verified.joint,
        "tables": {**by_head, **{kind: records(rows) for kind, rows in neurons.items()}},
        "flow": None if found.flow is None else found.flow.to_frame().to_dict("records"),
    }
