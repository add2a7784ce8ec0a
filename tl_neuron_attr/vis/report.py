"""The report: one page that tells which layers, heads, source tokens and neurons raised a token's log-probability."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.attribution import attribute_head_positions, attribute_heads, attribute_layers
from tl_neuron_attr.knowledge.flow import trace
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.positions import Pos
from tl_neuron_attr.model.scored_cache import Question, ask
from tl_neuron_attr.model.targets import Target
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
    cache: ActivationCache,
    target: Target | None = None,
    *,
    k: int = 30,
    heads: int = 8,
    pos: Pos = -1,
    contrast: Target | None = None,
    model: Any = None,
    name: str = "",
) -> View:
    """One self-contained page on why the model said ``target``: layers, heads, source tokens, value neurons.

    Args:
        cache: A cache of one prompt's forward pass.
        target: The token followed; the model's own prediction by default.
        k: How many value neurons.
        heads: How many of the best heads are shown in detail.
        pos: The position scored; the last by default.
        contrast: If given, everything is scored for ``log p(target) - log p(contrast)``.
        model: The model that made the cache; ``cache.model`` by default.
        name: What to call the model; the name it was booted with by default.

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
    q = ask(cache, 0 if target is None else target, (), pos=pos, contrast=contrast, model=model)
    if q.stream.shape[0] != 1:
        raise ValueError(f"cache holds {q.stream.shape[0]} prompts; a report is of one: cache a single prompt")
    said = _Prediction.of(q, target is None)
    options: dict[str, Any] = {"pos": pos, "contrast": contrast, "model": model}
    layers = attribute_layers(cache, said.target, **options)
    by_head = attribute_heads(cache, said.target, **options).reshape(q.stream.n_layers, -1)
    best = best_heads(by_head, heads)
    found = value_neurons(cache, said.target, k, **options)
    traced = trace(cache, said.target, k=k, heads=2 * heads, **options)
    tokens = tokens_of(q.stream, 0)
    sources = attribute_head_positions(cache, said.target, **options).reshape(*by_head.shape, -1)
    body = render(
        "report.html.j2",
        said=said,
        tokens=tokens[: int(q.places.pos[0]) + 1],
        name=name or str(getattr(q.stream.model.cfg, "model_name", "")),
        sums=_sums(layers),
        layers=layer_scores(layers).body,
        heatmap=head_scores(by_head).body,
        best=[(head_name(layer, head), float(by_head[layer, head])) for layer, head in best],
        sources=_sources_view(tokens, sources, best),
        patterns=_patterns_view(cache, best, len(tokens)),
        flow=flow(traced).body,
        neurons=neurons(found).body,
        evaluated=int(torch.as_tensor(found.evaluated).sum()),
        searched=q.stream.neuron_count(("attn", "mlp")),
    )
    return View(body, f"What made the model say {said.text.strip() or repr(said.text)}?", scripted=True, whole=True)


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
    def of(cls, q: Question, predicted: bool) -> "_Prediction":
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
