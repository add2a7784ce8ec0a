"""The logit flow as heat maps: layers upwards, tokens from left to right, attention and MLPs apart."""

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.logit_flow import LogitFlow
from tl_neuron_attr.vis.charts import index_ticks
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View

_CELL = (46, 15)
"""Pixels: a short token under each column, a number beside each row."""

_MARGIN = (34, 64)
"""Pixels: layer numbers on the left, tokens written aslant below."""


@typechecked
def logit_flow(found: LogitFlow) -> View:
    """Draw what each sublayer adds to log p(target) at each position, in nats; blue raises it, red lowers it.

    Args:
        found: From :func:`~tl_neuron_attr.logit_flow`, of one prompt.

    Raises:
        ValueError: If it is of several prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> logit_flow(tna.logit_flow(cache, " basketball"))
        View('logit flow'): shown in a notebook; .save(path) writes a page
    """
    if len(found.tokens) != 1:
        raise ValueError(f"found is of {len(found.tokens)} prompts; make it from a cache of one of them")
    grids = {"attention": found.attn, "MLP": found.mlp}
    one = {site: grid.reshape(grid.shape[-2:]).tolist() for site, grid in grids.items()}
    largest = max(float(grid.abs().max()) for grid in grids.values()) or 1.0
    n_layers, n_pos = found.attn.shape[-2:]
    body = render(
        "logit_flow.html.j2",
        grids=one,
        tokens=found.tokens[0],
        largest=largest,
        ticks=index_ticks(n_layers),
        cell=_CELL,
        left=_MARGIN[0],
        width=_MARGIN[0] + _CELL[0] * n_pos + 12,
        bottom=_CELL[1] * n_layers + 4,
        height=_CELL[1] * n_layers + _MARGIN[1],
    )
    return View(body, "logit flow")
