"""One token of one prompt: all that is computed for it, and the part of a page that shows it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from tl_neuron_attr.evaluate.verify import Verified
from tl_neuron_attr.knowledge.attribution import attribute_heads, attribute_layers, source_scores_of_heads
from tl_neuron_attr.knowledge.flow import Flow, flow_of
from tl_neuron_attr.knowledge.logit_flow import LogitFlow, logit_flow
from tl_neuron_attr.knowledge.query_neurons import query_neurons
from tl_neuron_attr.knowledge.token_words import TokenWords
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.knowledge.vocabulary import signed_directions
from tl_neuron_attr.model.components import Head, head_name
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.vis.charts import head_heatmap
from tl_neuron_attr.vis.flow import flow
from tl_neuron_attr.vis.head_rows import HeadRow, best_heads, head_rows, lowest_heads, writes_of_heads
from tl_neuron_attr.vis.headline import headline
from tl_neuron_attr.vis.logit_flow import logit_flow as draw_logit_flow
from tl_neuron_attr.vis.measured import measured
from tl_neuron_attr.vis.neuron_rows import ANSWERS, NeuronRow, neuron_rows
from tl_neuron_attr.vis.page_data import page_data, records
from tl_neuron_attr.vis.prediction import Prediction
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.views import attention, layer_scores, source_scores, tokens_before_target

_LOGIT_FLOW_TOKENS = 32
"""Tokens of the longest prompt whose logit flow is drawn: it reads out every sublayer at every one of them."""

_WHOLE_PATTERNS = 64
"""Tokens of the longest prompt whose attention patterns are drawn whole; of longer ones, the scored position's."""

TOKEN_STEPS = 7
"""How often :meth:`OneToken.of` and :func:`token_tab` say that something is done."""


@dataclass(frozen=True)
class Shown:
    """What a page shows of a prediction.

    Attributes:
        k: How many value neurons.
        heads: How many of the best heads in detail.
        queries: How many query neurons.
        suppressing: How many of the neurons and heads that lower the target most.
        measure: Whether the prompt is run again without the value neurons.
        name: What the model is called.
        catalogue: A neuron catalogue, a frame per layer, if neurons are shown with their contexts.
        done: Called after each step of the work, if anything is.
    """

    k: int
    heads: int
    queries: int
    suppressing: int
    measure: bool
    name: str
    catalogue: Mapping[str, pd.DataFrame] | None = None
    done: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class OneToken:
    """All that was computed for a token.

    Attributes:
        q: What it was computed from.
        words: Makes lists of tokens, and has made those of everything here.
        prediction: The token.
        tokens: The prompt up to the position scored.
        layers: The scores of layers.
        heads: The scores of heads.
        sources: What some heads added by each source, the best and the worst among them.
        best: The heads that raise the target most.
        worst: Those that lower it most.
        value: The value neurons.
        query: The query neurons, if any were asked for.
        suppressing: The neurons that lower the target most, if any were asked for.
        verified: What taking the value neurons out costs, where it was measured.
        flow: The flow.
        logit_flow: The logit flow, of a short prompt.
    """

    q: ScoredCache
    words: TokenWords
    prediction: Prediction
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
    def of(cls, q: ScoredCache, shown: Shown) -> "OneToken":
        """Compute everything from a scored cache of one prompt and one token."""
        length = int(q.places.pos[0]) + 1
        by_head = attribute_heads(q).reshape(q.stream.n_layers, -1)
        best, worst = best_heads(by_head, shown.heads), lowest_heads(by_head, min(shown.heads, shown.suppressing))
        layers, sources = attribute_layers(q), source_scores_of_heads(q, list({*best, *worst}))
        shown.done()
        value = only(value_neurons(q, k=shown.k))
        shown.done()
        verified = measured(q, value) if shown.measure else None
        shown.done()
        lowest = lowering(q, shown.suppressing)
        shown.done()
        query = only(query_neurons(q, value, shown.queries)) if shown.queries else None
        words = TokenWords(q.stream.model, q.readout)
        for neurons in (value, lowest, query):
            if neurons is not None and len(neurons):
                words.note(signed_directions(q.stream.model, neurons), int(q.target[0]))
                words.note_keys(neurons)
        words.note(writes_of_heads(q, [*best, *worst], sources, by_head), int(q.target[0]))
        followed = flow_of(q, value, words, heads=2 * shown.heads, queries=shown.queries)
        shown.done()
        logits = logit_flow(q) if length <= _LOGIT_FLOW_TOKENS else None
        shown.done()
        return cls(
            q=q,
            words=words,
            prediction=Prediction.of(q),
            tokens=tokens_before_target(q),
            layers=layers,
            heads=by_head,
            sources={at: scores[:length] for at, scores in sources.items()},
            best=best,
            worst=worst,
            value=value if verified is None else replace(verified.neurons, text=value.text),
            query=query,
            suppressing=lowest,
            verified=verified,
            flow=followed,
            logit_flow=logits,
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


def token_tab(found: OneToken, shown: Shown, *, alone: bool) -> Markup:
    """Return the part of a page on one token; with ``alone``, all of the page, which then shows the prompt too."""
    tables = _tables(found, shown)
    whole_patterns = len(found.tokens) <= _WHOLE_PATTERNS
    body = render(
        "report.html.j2",
        alone=alone,
        prediction=found.prediction,
        name=shown.name,
        tokens=found.tokens,
        searched=found.q.stream.neuron_count(("attn", "mlp")),
        found=found,
        headline=_headline(found, tables),
        answers=[text for _, text in _shown_answers(found.prediction)],
        tables=tables,
        data=page_data(_data(shown.name, found, tables)),
        whole_patterns=whole_patterns,
        layers=layer_scores(found.layers).body,
        heatmap=head_heatmap(found.heads),
        sources=sources_view(found.tokens, found.sources, found.best),
        patterns=_patterns(found, whole=whole_patterns),
        flow=flow(found.flow).body,
        logit_flow=Markup() if found.logit_flow is None else draw_logit_flow(found.logit_flow).body,
    )
    shown.done()
    return body


def only(neurons: Neurons) -> Neurons:
    """Return the neurons of the only prompt."""
    return neurons[0] if neurons.batched else neurons


def lowering(q: ScoredCache, count: int) -> Neurons | None:
    """Return the neurons that lower the target most, those below zero only; None where none are asked for."""
    if not count:
        return None
    lowest = only(value_neurons(q, k=count, largest=False))
    return lowest.pick((lowest.score < 0).nonzero()[:, 0].tolist())


def sources_view(tokens: Sequence[str], sources: dict[Head, Float[Tensor, "source"]], best: list[Head]) -> Markup:
    """Return the picture of what the best heads read."""
    rows = torch.stack([sources[at] for at in best])
    return source_scores(tokens, rows, labels=[head_name(layer, head) for layer, head in best]).body


def _tables(found: OneToken, shown: Shown) -> _Tables:
    q, words = found.q, found.words
    answers = _shown_answers(found.prediction)
    heads = {"heads": found.best, "suppressing heads": found.worst}
    neurons = {"value": found.value, "suppressing": found.suppressing, "query": found.query}
    return _Tables(
        {name: head_rows(q, at, found.sources, found.heads, found.tokens, words) for name, at in heads.items()},
        {
            name: neuron_rows(q, of, words, answers=[] if name == "query" else answers, catalogue=shown.catalogue)
            if of is not None
            else []
            for name, of in neurons.items()
        },
    )


def _headline(found: OneToken, tables: _Tables) -> Markup:
    best, words = tables.heads["heads"], tables.neurons["value"][0].promoted.words_first
    return headline(found.prediction, best, found.value, words, found.layers, found.verified)


def _data(name: str, found: OneToken, tables: _Tables) -> dict[str, object]:
    """Return everything on the page as plain data."""
    prediction = found.prediction
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


def _patterns(found: OneToken, *, whole: bool) -> Markup:
    return attention(found.q.stream.cache, found.best, pos=None if whole else len(found.tokens) - 1).body
