"""The page of a model's own continuation: the text shaded by probability, and for each token what did most for it."""

from markupsafe import Markup

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.explain import Explanation
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.vis.charts import head_heatmap
from tl_neuron_attr.vis.head_rows import best_heads
from tl_neuron_attr.vis.overview import Best, Listed, overview
from tl_neuron_attr.vis.page_data import page_data
from tl_neuron_attr.vis.tabs import Line, Tab, paged
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import layer_scores, neurons

_HEADS = 8
"""Heads listed of each token: what stands beside the heat map."""


@typechecked
def explanation(found: Explanation, *, name: str = "") -> View:
    """Make the page of a continuation: a click on a token shows its best layers, heads and neurons.

    Args:
        found: From :func:`~tl_neuron_attr.explain`.
        name: What to call the model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> explanation(tna.explain(tna.demo.load(), "Tim Duncan plays the sport of", max_new_tokens=2))
        View('What the model said, token by token'): shown in a notebook; .save(path) writes a page
    """
    tabs = tuple(Tab(token, _of_token(found, i), float(found.prob[i])) for i, token in enumerate(found.tokens))
    best = [
        Best.of(token, float(found.prob[i]), _layers(found, i), found.heads[i], found.neurons[i])
        for i, token in enumerate(found.tokens)
    ]
    rows = [Listed(i + 1, each) for i, each in enumerate(best)]
    table = overview(rows, "What did most for each token; click one for its own part.", name)
    title = "What the model said, token by token"
    heading = Markup("<h1>{}</h1>").format(title)
    return paged([Line((found.prompt,), tabs)], heading, title, first=Tab("all tokens", table, whole=True))


def _layers(found: Explanation, i: int) -> LayerScores:
    return LayerScores(attn=found.layers.attn[i], mlp=found.layers.mlp[i])


def _of_token(found: Explanation, i: int) -> Markup:
    """Return the part of one token."""
    layers, by_head = _layers(found, i), found.heads[i]
    heads = [(head_name(*at), float(by_head[at])) for at in best_heads(by_head, _HEADS)]
    data = {
        "token": found.tokens[i],
        "prob": float(found.prob[i]),
        "layers": {"attn": layers.attn.tolist(), "mlp": layers.mlp.tolist()},
        "heads": by_head.tolist(),
        "neurons": [
            {"neuron": label, "score": score}
            for label, score in zip(found.neurons[i].flat_labels, found.neurons[i].score.tolist(), strict=True)
        ],
    }
    return render(
        "explanation.html.j2",
        token=found.tokens[i],
        prob=float(found.prob[i]),
        heads=heads,
        layers=layer_scores(layers).body,
        heatmap=head_heatmap(by_head),
        neurons=neurons(found.neurons[i]).body,
        data=page_data(data),
    )
