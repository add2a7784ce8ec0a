"""The report: one page that tells which layers, heads, source tokens and neurons raised a token's log-probability."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.attribution import attribute_head_positions, attribute_heads, attribute_layers
from tl_neuron_attr.knowledge.flow import trace
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring, as_scored
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.token_text import token_text
from tl_neuron_attr.vis.flow import flow
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import Head, attention, head_scores, layer_scores, neurons, source_scores, tokens_of

PREDICTIONS = 10
_DRAWN_PATTERNS = 150_000
"""Attention entries drawn at the most: fewer heads, then none, for long prompts."""


@typechecked
@torch.no_grad()
def report(
    cache: ActivationCache | ScoredCache,
    target: Target | None = None,
    *,
    k: int = 30,
    heads: int = 8,
    name: str = "",
    **scoring: Unpack[Scoring],
) -> View:
    """One self-contained page on why the model said ``target``: layers, heads, source tokens, value neurons.

    Args:
        cache: A cache of one prompt's forward pass, or what :func:`~tl_neuron_attr.scored` made of it, which has its
            own target and scoring.
        target: The token followed; the model's own prediction by default.
        k: How many value neurons.
        heads: How many of the best heads are shown in detail.
        name: What to call the model; the name it was booted with by default.
        **scoring: ``pos``, ``contrast``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Returns:
        A view: shown in a notebook, ``.save(path)`` writes the page.

    Raises:
        ValueError: If the cache holds several prompts, or as :func:`~tl_neuron_attr.value_neurons`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> report(cache, " basketball")
        View('What made the model say basketball?'): shown in a notebook; .save(path) writes a page
    """
    predicted = target is None and not isinstance(cache, ScoredCache)
    q = as_scored(cache, 0 if predicted else target, SITES, **scoring)
    if len(q.places) != 1:
        raise ValueError(f"cache holds {len(q.places)} prompts; a report is of one: cache a single prompt")
    explained = _Prediction.of(q, predicted)
    q = replace(q, target=torch.full_like(q.target, explained.target))
    layers = attribute_layers(q)
    by_head = attribute_heads(q).reshape(q.stream.n_layers, -1)
    best = best_heads(by_head, heads)
    found = value_neurons(q, k=k)
    traced = trace(q, value=found, heads=2 * heads)
    tokens = tokens_of(q.stream, 0)
    sources = attribute_head_positions(q).reshape(*by_head.shape, -1)
    body = render(
        "report.html.j2",
        explained=explained,
        tokens=tokens[: int(q.places.pos[0]) + 1],
        name=name or str(getattr(q.stream.model.cfg, "model_name", "")),
        sums=_sums(layers),
        layers=layer_scores(layers).body,
        heatmap=head_scores(by_head).body,
        best=[(head_name(layer, head), float(by_head[layer, head])) for layer, head in best],
        sources=_sources_view(tokens, sources, best),
        patterns=_patterns_view(q.stream.cache, best, len(tokens)),
        flow=flow(traced).body,
        neurons=neurons(found).body,
        evaluated=int(torch.as_tensor(found.evaluated).sum()),
        searched=q.stream.neuron_count(("attn", "mlp")),
    )
    return View(
        body, f"What made the model say {explained.text.strip() or repr(explained.text)}?", scripted=True, whole=True
    )


@dataclass(frozen=True)
class _Prediction:
    """What the model said: the target and its rivals, with their probabilities."""

    target: int
    text: str
    contrast: str
    log_prob: float
    rank: int
    best: list[tuple[str, float]]
    target_at: int | None

    @classmethod
    def of(cls, q: ScoredCache, predicted: bool) -> "_Prediction":
        log_probs = q.log_probs()[0]
        target = int(log_probs.argmax()) if predicted else int(q.target[0])
        top = log_probs.topk(min(PREDICTIONS, len(log_probs)))
        listed = top.indices.tolist()
        model = q.stream.model
        return cls(
            target=target,
            text=token_text(model, target),
            contrast="" if q.contrast is None else token_text(model, int(q.contrast[0])),
            log_prob=float(log_probs[target]),
            rank=int((log_probs > log_probs[target]).sum()) + 1,
            best=[(token_text(model, t), p) for t, p in zip(listed, top.values.exp().tolist(), strict=True)],
            target_at=listed.index(target) if target in listed else None,
        )

    @property
    def prob(self) -> float:
        """The target's probability."""
        return float(torch.tensor(self.log_prob).exp())


def best_heads(scores: Float[Tensor, "layer head"], n: int) -> list[Head]:
    """The ``n`` heads of the highest score, highest first, or as many as there are."""
    best = scores.flatten().topk(min(n, scores.numel())).indices.tolist()
    return [divmod(i, scores.shape[1]) for i in best]


def _sums(layers: LayerScores) -> tuple[float, float]:
    return float(layers.attn.sum()), float(layers.mlp.sum())


def _sources_view(tokens: tuple[str, ...], sources: Float[Tensor, "layer head source"], best: list[Head]) -> Markup:
    rows = torch.stack([sources[layer, head] for layer, head in best])
    return source_scores(tokens, rows, labels=[head_name(layer, head) for layer, head in best]).body


def _patterns_view(cache: ActivationCache, best: list[Head], length: int) -> Markup:
    drawn = best[: _DRAWN_PATTERNS // length**2]
    return attention(cache, drawn).body if drawn else Markup()
