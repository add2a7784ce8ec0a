"""Views of single results: layers, heads, source positions, attention patterns, neurons."""

from collections.abc import Sequence

from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens
from tl_neuron_attr.model.components import NamedHeads, head_name, required_heads
from tl_neuron_attr.model.positions import from_start
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import Table
from tl_neuron_attr.vis.charts import head_heatmap, layer_chart
from tl_neuron_attr.vis.escaping import harmless_tokens
from tl_neuron_attr.vis.page_data import page_data
from tl_neuron_attr.vis.shaded_tokens import shaded_tokens
from tl_neuron_attr.vis.templates import asset, render
from tl_neuron_attr.vis.view import View

Head = tuple[int, int]
"""A layer and a head in it."""

_DECIMALS = 4
"""Scores are exact to 1e-5; further digits would only make pages longer."""


@typechecked
def layer_scores(scores: LayerScores) -> View:
    """Draw bars of what each layer's attention and MLP added to log p(target), in nats.

    Raises:
        ValueError: If the scores are of several prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> layer_scores(tna.attribute_layers(cache, " basketball"))
        View('layers'): shown in a notebook; .save(path) writes a page
    """
    return View(layer_chart(_one(scores.attn, 1), _one(scores.mlp, 1)), "layers")


@typechecked
def head_scores(scores: Float[Tensor, "*b layer head"], *, listed: int = 10) -> View:
    """Draw head scores, in nats, as a heatmap, and list the largest beside it, of either sign.

    Args:
        scores: From :func:`~tl_neuron_attr.attribute_heads`.
        listed: How many heads are listed; fewer where fewer have a score.

    Raises:
        ValueError: If the scores are of several prompts, or ``listed`` is negative.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> head_scores(tna.attribute_heads(cache, " basketball"))
        View('heads'): shown in a notebook; .save(path) writes a page
    """
    if listed < 0:
        raise ValueError(f"listed must be 0 or more, got {listed}")
    grid = _one(scores, 2)
    best = grid.abs().flatten().topk(min(listed, int(grid.count_nonzero()))).indices.tolist()
    names = [head_name(*divmod(i, grid.shape[1])) for i in best]
    table = Table(("head", "score"), [(name, float(grid.flatten()[i])) for name, i in zip(names, best, strict=True)])
    heatmap = head_heatmap(grid)
    return View(render("heads.html.j2", heatmap=heatmap, table=Markup(table.html())) if best else heatmap, "heads")


@typechecked
def source_scores(
    tokens: Sequence[str], scores: Float[Tensor, "head source"], *, labels: Sequence[str] | None = None
) -> View:
    """Colour the prompt's tokens by what each head read from them, in nats: one line per head, all on one scale.

    Args:
        tokens: The prompt's tokens.
        scores: One row per head, from :func:`~tl_neuron_attr.attribute_head_positions`.
        labels: One name per head.

    Raises:
        ValueError: If there is not one score per token and one label per head.

    Examples:
        >>> import torch
        >>> source_scores(["The", " cat"], torch.randn(1, 2), labels=["L3H1"])
        View('source positions'): shown in a notebook; .save(path) writes a page
    """
    names = [f"head {i}" for i in range(len(scores))] if labels is None else list(labels)
    if len(tokens) != scores.shape[1] or len(names) != len(scores):
        raise ValueError(
            f"scores must have one row per label and one column per token, got shape {tuple(scores.shape)} "
            f"for {len(names)} labels and {len(tokens)} tokens"
        )
    values = scores.detach().cpu().round(decimals=_DECIMALS)
    largest = max(float(values.abs().max()), 1e-12)
    lines = [
        (name, shaded_tokens(tokens, line, largest=largest, number_format="{:+.3g} nats"))
        for name, line in zip(names, values.tolist(), strict=True)
    ]
    return View(render("sources.html.j2", lines=lines), "source positions")


@typechecked
def attention(cache: ActivationCache, heads: NamedHeads, *, prompt: int = 0, pos: int | None = None) -> View:
    """Draw the attention patterns of some heads with circuitsvis: destination tokens in rows, sources in columns.

    One head is drawn at a time, chosen by a button.

    Args:
        cache: A cache of a forward pass.
        heads: ``(layer, head)`` pairs.
        prompt: Which prompt of a batch.
        pos: Draw only what this position attends to, as one strip per head: for long prompts.

    Raises:
        IndexError: If a layer, head, prompt or position is out of range.
        ValueError: If ``heads`` is empty.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> attention(cache, [(2, 0), (3, 1)])
        View('attention'): shown in a notebook; .save(path) writes a page
    """
    stream = Stream(cache)
    heads = required_heads(stream.model, heads)
    within("prompt", prompt, stream.shape[0])
    rows = slice(None)
    if pos is not None:
        at = int(from_start(pos, *stream.shape[:2])[0])
        rows = slice(at, at + 1)
    patterns = {
        head_name(layer, head): stream.pattern(layer)[prompt, head, rows].double().cpu().round(decimals=_DECIMALS)
        for layer, head in heads
    }
    drawn = {
        "tokens": harmless_tokens(tokens_of(stream, prompt)),
        "heads": {name: pattern.tolist() for name, pattern in patterns.items()},
    }
    body = render("attention.html.j2", patterns=page_data(drawn), script=asset("attention.js"))
    return View(body, "attention", scripted=True)


@typechecked
def neurons(found: Neurons) -> View:
    """Show neurons as a table: rank, name, source token, coefficient, score in nats as a bar, promoted tokens.

    Raises:
        ValueError: If the neurons are of several prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> neurons(tna.value_neurons(cache, " basketball", k=5))
        View('neurons'): shown in a notebook; .save(path) writes a page
    """
    if found.batched and len(found.score) > 1:
        raise ValueError(f"neurons are of {len(found.score)} prompts; show one of them: neurons[0]")
    one = found[0] if found.batched else found
    frame = one.to_frame().fillna({"source": -1})
    largest = max(float(one.score.abs().max()), 1e-12)
    rows = [{**row, "share": abs(row["score"]) / largest} for row in frame.to_dict("records")]
    return View(render("neurons.html.j2", rows=rows), "neurons")


def tokens_of(stream: Stream, prompt: int) -> tuple[str, ...]:
    """Return the tokens of one prompt, or their positions (``@0``, ``@1``) if the cache does not hold the tokens."""
    ids = stream.tokens()
    if ids is None:
        return tuple(f"@{i}" for i in range(stream.shape[1]))
    return prompt_tokens(stream.model, ids[prompt : prompt + 1])[0]


def tokens_before_target(q: ScoredCache) -> tuple[str, ...]:
    """Return the prompt's tokens up to the position that predicts the target, or an answer's first token."""
    return tokens_of(q.stream, int(q.places.row[0]))[: int(q.places.pos[0]) + 1]


def _one(scores: Tensor, ndim: int) -> Tensor:
    """Return the scores of the only prompt."""
    rows = scores.detach().cpu().reshape(-1, *scores.shape[scores.ndim - ndim :])
    if len(rows) != 1:
        raise ValueError(f"scores are of {len(rows)} prompts; show one of them: scores[0]")
    return rows[0]
