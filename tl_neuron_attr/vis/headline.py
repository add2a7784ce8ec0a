"""The first sentence of a page: which head and neuron did most, what the neurons hold, and what is lost without them.

Every number in it is one of the page's; the last is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from markupsafe import Markup

from tl_neuron_attr.evaluate.verify import Verified
from tl_neuron_attr.knowledge.token_words import LISTED
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.vis.head_rows import HeadRow
from tl_neuron_attr.vis.prediction import Prediction
from tl_neuron_attr.vis.templates import render

WORDS = 3
"""Promoted words: enough to see what kind of word a neuron is for."""


@dataclass(frozen=True)
class Without:
    """A measured loss, in the words of a prediction: its value untouched and with neurons taken out."""

    before: float
    after: float

    @property
    def verb(self) -> str:
        """What the value does."""
        return "falls" if self.after < self.before else "rises"


def headline(
    prediction: Prediction,
    heads: Sequence[HeadRow],
    neurons: Neurons,
    words: Sequence[str],
    layers: LayerScores,
    verified: Verified | None,
) -> Markup:
    """Return the sentence.

    Args:
        prediction: What it is of. With a contrast, scores are of a difference, which has no probability to fall.
        heads: The heads that raise the target most, best first.
        neurons: The value neurons, best first.
        words: What the best of them promotes, best first.
        layers: The scores of all sublayers.
        verified: What taking the neurons out costs, where it was measured.
    """
    contrast = bool(prediction.contrast)
    total = float(layers.attn.sum() + layers.mlp.sum())
    return render(
        "headline.html.j2",
        head=heads[0] if heads and heads[0].score > 0 else None,
        neuron=neurons.flat_labels[0] if float(neurons.score[0]) > 0 else "",
        score=float(neurons.score[0]),
        words=words[:WORDS],
        listed=LISTED,
        count=len(neurons),
        hold=float(neurons.score.sum()),
        total=total,
        without=None if verified is None else _without(verified, len(neurons), contrast),
        target=prediction.text,
        contrast=contrast,
    )


def _without(verified: Verified, n: int, contrast: bool) -> Without:
    after = verified.log_prob - verified.joint[n]
    return Without(verified.log_prob, after) if contrast else Without(exp(verified.log_prob), exp(after))
