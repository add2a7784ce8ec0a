"""The report: one page that tells which layers, heads, source tokens and neurons raised a token's log-probability."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.verify import Verified
from tl_neuron_attr.knowledge.attribution import attribute_heads, attribute_layers, source_scores_of_heads
from tl_neuron_attr.knowledge.flow import Flow, trace
from tl_neuron_attr.knowledge.logit_flow import LogitFlow, logit_flow
from tl_neuron_attr.knowledge.query_neurons import query_neurons
from tl_neuron_attr.knowledge.token_words import TokenWords
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.vis.flow import flow
from tl_neuron_attr.vis.head_rows import HeadRow, best_heads, head_rows, lowest_heads
from tl_neuron_attr.vis.headline import headline
from tl_neuron_attr.vis.logit_flow import logit_flow as draw_logit_flow
from tl_neuron_attr.vis.measured import measured
from tl_neuron_attr.vis.neuron_rows import ANSWERS, NeuronRow, neuron_rows
from tl_neuron_attr.vis.page_data import page_data, records
from tl_neuron_attr.vis.prediction import Prediction
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import attention, head_scores, layer_scores, source_scores, tokens_of

_LOGIT_FLOW_TOKENS = 32
"""Tokens of the longest prompt whose logit flow is drawn: it reads out every sublayer at every one of them."""

_WHOLE_PATTERNS = 64
"""Tokens of the longest prompt whose attention patterns are drawn whole; of longer ones, the scored position's."""


@typechecked
@torch.no_grad()
def report(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    k: int = 30,
    heads: int = 8,
    queries: int = 20,
    suppressing: int = 10,
    measure: bool = True,
    name: str = "",
    **scoring: Unpack[Scoring],
) -> View:
    """Draw one page on why the model said ``target``: layers, heads, source tokens, value and query neurons.

    Args:
        cache: A cache of one prompt's forward pass, or what :func:`~tl_neuron_attr.scored` made of it, which has its
            own target and scoring.
        target: The token followed; the model's own prediction by default.
        k: How many value neurons.
        heads: How many of the best heads are shown in detail.
        queries: How many query neurons; 0 for none.
        suppressing: How many of the neurons and heads that lower the target most; 0 for none.
        measure: Whether to run the prompt again without the value neurons, one by one and together, and to show what
            that costs: some forward passes, and more memory. Nothing is measured where the run can't be repeated.
        name: What to call the model; the name it was booted with by default.
        **scoring: ``pos``, ``contrast``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Returns:
        A view: shown in a notebook, ``.save(path)`` writes the page.

    Raises:
        ValueError: If the cache holds several prompts, ``heads`` is below one, another count below zero, or as
            :func:`~tl_neuron_attr.value_neurons`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> report(cache, " basketball")
        View('What made the model say basketball?'): shown in a notebook; .save(path) writes a page
    """
    if heads < 1:
        raise ValueError(f"heads must be 1 or more, got {heads}")
    for count, given in (("queries", queries), ("suppressing", suppressing)):
        if given < 0:
            raise ValueError(f"{count} must be 0 or more, got {given}")
    q = as_scored(cache, target, SITES, **scoring)
    if q.sums is not None:
        raise ValueError(
            f"a report is of one token and this target is {q.followed[0]!r}: take a token of the answer, "
            "tna.vis.report(cache.per_token[0]), or one of the right answers"
        )
    if len(q.places) != 1:
        raise ValueError(f"cache holds {len(q.places)} prompts; a report is of one: cache a single prompt")
    prediction = Prediction.of(q)
    found = _Found.of(q, k=k, heads=heads, queries=queries, suppressing=suppressing, measure=measure)
    name = name or str(getattr(q.stream.model.cfg, "model_name", ""))
    tables = _tables(q, found, prediction)
    body = render(
        "report.html.j2",
        prediction=prediction,
        name=name,
        tokens=found.tokens[: int(q.places.pos[0]) + 1],
        searched=q.stream.neuron_count(("attn", "mlp")),
        found=found,
        headline=_headline(prediction, found, tables),
        answers=[text for _, text in _shown_answers(prediction)],
        tables=tables,
        data=page_data(_data(name, prediction, found, tables)),
        whole_patterns=len(found.tokens) <= _WHOLE_PATTERNS,
        **_pictures(q, found),
    )
    return View(body, prediction.title, scripted=True, whole=True)


@dataclass(frozen=True)
class _Found:
    """All that was computed for a page."""

    tokens: tuple[str, ...]
    layers: LayerScores
    heads: Float[Tensor, "layer head"]
    sources: dict[Head, Float[Tensor, "source"]]
    best: list[Head]
    worst: list[Head]
    value: Neurons
    query: Neurons | None
    suppressing: Neurons | None
    verified: Verified | None
    flow: Flow
    logit_flow: LogitFlow | None

    @classmethod
    def of(cls, q: ScoredCache, *, k: int, heads: int, queries: int, suppressing: int, measure: bool) -> "_Found":
        """Compute everything from one scored cache."""
        by_head = attribute_heads(q).reshape(q.stream.n_layers, -1)
        best, worst = best_heads(by_head, heads), lowest_heads(by_head, min(heads, suppressing))
        value = _one(value_neurons(q, k=k))
        verified = measured(q, value) if measure else None
        lowest = _one(value_neurons(q, k=suppressing, largest=False)) if suppressing else None
        return cls(
            tokens=tokens_of(q.stream, 0),
            layers=attribute_layers(q),
            heads=by_head,
            sources=source_scores_of_heads(q, list({*best, *worst})),
            best=best,
            worst=worst,
            value=value if verified is None else replace(verified.neurons, text=value.text),
            query=_one(query_neurons(q, value, queries)) if queries else None,
            suppressing=None if lowest is None else lowest.pick((lowest.score < 0).nonzero()[:, 0].tolist()),
            verified=verified,
            flow=trace(q, value=value, heads=2 * heads, queries=queries),
            logit_flow=logit_flow(q) if q.places.pos[0] < _LOGIT_FLOW_TOKENS else None,
        )

    @property
    def evaluated(self) -> int:
        """How many neurons were scored exactly."""
        return int(torch.as_tensor(self.value.evaluated).sum())

    @property
    def sums(self) -> tuple[float, float]:
        """What attention and the MLPs added in all."""
        return float(self.layers.attn.sum()), float(self.layers.mlp.sum())


@dataclass(frozen=True)
class _Tables:
    """The rows of a page's tables, by the table's name."""

    heads: dict[str, list[HeadRow]]
    neurons: dict[str, list[NeuronRow]]


def _tables(q: ScoredCache, found: _Found, prediction: Prediction) -> _Tables:
    """Return the rows of the page's tables, by name."""
    words = TokenWords(q.stream.model, q.readout)
    shown = _shown_answers(prediction)
    heads = {"heads": found.best, "suppressing heads": found.worst}
    neurons = {"value": found.value, "suppressing": found.suppressing, "query": found.query}
    return _Tables(
        {name: head_rows(q, at, found.sources, found.heads, found.tokens, words) for name, at in heads.items()},
        {
            name: [] if of is None else neuron_rows(q, of, words, answers=[] if name == "query" else shown)
            for name, of in neurons.items()
        },
    )


def _headline(prediction: Prediction, found: _Found, tables: _Tables) -> Markup:
    best, words = tables.heads["heads"], tables.neurons["value"][0].promoted.words_first
    return headline(prediction, best, found.value, words, found.layers, found.verified)


def _data(name: str, prediction: Prediction, found: _Found, tables: _Tables) -> dict[str, object]:
    """Return everything on the page as plain data."""
    return {
        "model": name,
        "tokens": found.tokens,
        "target": prediction.text,
        "contrast": prediction.contrast or None,
        "log_prob": prediction.log_prob,
        "rank": prediction.rank,
        "answers": [{"token": text, "prob": p} for text, p in prediction.answers],
        "layers": {"attn": found.layers.attn.flatten().tolist(), "mlp": found.layers.mlp.flatten().tolist()},
        "heads": found.heads.tolist(),
        "sources": {head_name(*at): found.sources[at].tolist() for at in found.best},
        "without": None if found.verified is None else found.verified.joint,
        "tables": {kind: records(rows) for kind, rows in (*tables.heads.items(), *tables.neurons.items())},
        "flow": found.flow.to_frame().to_dict("records"),
    }


def _shown_answers(prediction: Prediction) -> list[tuple[int, str]]:
    """Return the answers whose change is shown: the likeliest but the target, whose change is the score."""
    listed = zip(prediction.likeliest, prediction.answers, strict=True)
    return [(token, text) for token, (text, _) in listed if token != prediction.target][:ANSWERS]


def _pictures(q: ScoredCache, found: _Found) -> dict[str, Markup]:
    return {
        "layers": layer_scores(found.layers).body,
        "heatmap": head_scores(found.heads).body,
        "sources": _sources_view(found.tokens, found.sources, found.best),
        "patterns": _patterns_view(q, found),
        "flow": flow(found.flow).body,
        "logit_flow": Markup() if found.logit_flow is None else draw_logit_flow(found.logit_flow).body,
    }


def _one(neurons: Neurons) -> Neurons:
    return neurons[0] if neurons.batched else neurons


def _sources_view(tokens: Sequence[str], sources: dict[Head, Float[Tensor, "source"]], best: list[Head]) -> Markup:
    rows = torch.stack([sources[at] for at in best])
    return source_scores(tokens, rows, labels=[head_name(layer, head) for layer, head in best]).body


def _patterns_view(q: ScoredCache, found: _Found) -> Markup:
    pos = None if len(found.tokens) <= _WHOLE_PATTERNS else int(q.places.pos[0])
    return attention(q.stream.cache, found.best, pos=pos).body
