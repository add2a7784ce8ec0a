"""The first part of a page of several: a table of all of them, each with what did most."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.vis.page_data import page_data
from tl_neuron_attr.vis.templates import render

_PROMOTED = 4
"""Promoted tokens listed: enough to see what kind of word a neuron is for."""


@dataclass(frozen=True)
class Best:
    """What did most for a token or an answer; scores in nats.

    Attributes:
        text: The token, or the answer.
        prob: Its probability; of one answer against another, how many times as likely it is.
        layer: The best sublayer.
        layer_score: Its score.
        head: The best head.
        head_score: Its score.
        neuron: The best neuron.
        neuron_score: Its score.
        promotes: What the neuron promotes.
    """

    text: str
    prob: float
    layer: str
    layer_score: float
    head: str
    head_score: float
    neuron: str
    neuron_score: float
    promotes: tuple[str, ...]

    @classmethod
    def of(
        cls, text: str, prob: float, layers: LayerScores, heads: Float[Tensor, "layer head"], value: Neurons
    ) -> "Best":
        """Return what did most, from scores and value neurons of one prompt."""
        sublayers = torch.stack([layers.attn.flatten(), layers.mlp.flatten()], dim=-1).flatten()
        sublayer, head = int(sublayers.argmax()), int(heads.argmax())
        return cls(
            text=text,
            prob=prob,
            layer=f"L{sublayer // 2} {'MLP' if sublayer % 2 else 'attention'}",
            layer_score=float(sublayers[sublayer]),
            head=head_name(*divmod(head, heads.shape[1])),
            head_score=float(heads.flatten()[head]),
            neuron=value.flat_labels[0],
            neuron_score=float(value.score[0]),
            promotes=() if value.text is None else value.text.of(value.keys[0])[:_PROMOTED],
        )

    @property
    def record(self) -> dict[str, object]:
        """Everything in it as plain data."""
        return vars(self)


@dataclass(frozen=True)
class Listed:
    """One row of the table: a part of the page, by its number."""

    number: int
    best: Best
    prompt: str = ""


def overview(rows: Sequence[Listed], lead: str, name: str) -> Markup:
    """Return the part; ``lead`` is the line over its table, ``name`` what the model is called."""
    records = [{"prompt": row.prompt, **row.best.record} if row.prompt else row.best.record for row in rows]
    data = {"model": name, "tables": {"overview": records}}
    prompts = any(row.prompt for row in rows)
    return render("overview.html.j2", rows=rows, lead=lead, name=name, prompts=prompts, data=page_data(data))
