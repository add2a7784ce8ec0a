"""Rows of a page's tables of neurons: what each did to the likeliest answers, and the words it stands for.

A neuron of a real model often promotes fragments and raises the target all the same, since the target lies far up in
what it promotes: so the target's rank among all tokens for that neuron is shown, and what its write did to the
log-probability of each likely answer (paper 1, Eq. 13, with each answer in the target's place).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr.knowledge.token_words import TokenWords, WordList
from tl_neuron_attr.knowledge.vocabulary import signed_directions
from tl_neuron_attr.model.neuron_writes import SublayerWrites, neuron_writes
from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.numerics.increase import Increase, log_sum_exp
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neuron_contexts import neuron_contexts
from tl_neuron_attr.results.neurons import Neurons

_CHUNK = 64
"""Neurons read out at a time: 64 MiB of logits of the largest vocabularies."""

ANSWERS = 3
"""Likely answers other than the target whose change is shown."""

_CONTEXTS = 5
"""Texts of a corpus shown of each neuron: enough to see what they have in common, and a page of sixty neurons grows by
100 kB."""


@dataclass(frozen=True)
class NeuronRow:
    """One neuron.

    Attributes:
        rank: Its place in the table, from 1.
        name: Its label.
        site: ``"attn"`` or ``"mlp"``.
        source: The position an attention neuron reads; -1 for an MLP neuron.
        token: The token there.
        coefficient: How far it moved along its direction.
        score: Its score, in nats.
        share: The score's size relative to the largest of the table.
        effect: What taking it out costs, in nats, where it was measured.
        switched_on_by: The tokens whose embeddings switch it on most; None where the architecture hides them.
        promoted: The tokens it promotes most.
        suppressed: The tokens it lowers most.
        target_rank: The target's place among all tokens for this neuron, 1 for the one it promotes most; of an answer,
            the best place of its tokens.
        target_logit: What it adds to the target's logit; of value neurons of one token only.
        answers: What it adds to the log-probability of likely answers, in nats; of value neurons only.
        by_token: Of an answer of several tokens, what it adds to each of them.
        contexts: Where in a corpus it was strongest, the token itself between double brackets.
    """

    rank: int
    name: str
    site: str
    source: int
    token: str
    coefficient: float
    score: float
    share: float
    effect: float | None
    switched_on_by: WordList | None
    promoted: WordList
    suppressed: WordList
    target_rank: int
    target_logit: float | None = None
    answers: tuple[tuple[str, float], ...] = ()
    by_token: tuple[tuple[str, float], ...] = ()
    contexts: tuple[str, ...] = ()

    @property
    def marked_contexts(self) -> list[tuple[str, str, str]]:
        """Each context as what stands before the token, the token, and what stands behind it."""
        return [marked_context(text) for text in self.contexts]

    @property
    def most(self) -> tuple[str, float] | None:
        """The token of an answer that it adds most to, in the direction of the score, and how much."""
        return most_of(self.by_token, self.score)

    @property
    def unit(self) -> str:
        """What it is known by on the page: its name without the position it reads."""
        return self.name.split("@")[0]

    @property
    def disagrees(self) -> bool:
        """Whether score and measured effect differ in sign."""
        return self.effect is not None and self.effect * self.score < 0


def marked_context(text: str) -> tuple[str, str, str]:
    """Return a context cut at its double brackets; whole where the corpus has such brackets of its own.

    Examples:
        >>> marked_context("in the [[ city]] of"), marked_context("[[a]] or [[b]]")
        (('in the ', ' city', ' of'), ('[[a]] or [[b]]', '', ''))
    """
    if text.count("[[") != 1 or text.count("]]") != 1 or text.index("[[") > text.index("]]"):
        return text, "", ""
    before, _, rest = text.partition("[[")
    token, _, after = rest.partition("]]")
    return before, token, after


def most_of(by_token: Sequence[tuple[str, float]], score: float) -> tuple[str, float] | None:
    """Return the token that most of a score is of; None where it is no sum over tokens.

    Examples:
        >>> most_of([(" New", 0.5), (" York", -2.0)], -1.5)
        (' York', -2.0)
    """
    sign = -1 if score < 0 else 1
    return max(by_token, key=lambda pair: sign * pair[1], default=None)


def neuron_rows(
    q: ScoredCache,
    neurons: Neurons,
    words: TokenWords,
    *,
    answers: Sequence[tuple[int, str]] = (),
    catalogue: Mapping[str, pd.DataFrame] | None = None,
) -> list[NeuronRow]:
    """Return one row per neuron of one prompt.

    Args:
        q: What the neurons were found in.
        neurons: The neurons.
        words: Makes lists of tokens.
        answers: Token ids and texts whose change is shown; none for neurons that do not write at the scored position.
        catalogue: A neuron catalogue, a frame per layer, for the contexts.
    """
    if not len(neurons):
        return []
    largest = max(float(neurons.score.abs().max()), 1e-12)
    chunks = [range(start, min(start + _CHUNK, len(neurons))) for start in range(0, len(neurons), _CHUNK)]
    rows = [
        row
        for chunk in chunks
        for row in _rows(q, neurons.pick(list(chunk)), words, answers, first=chunk.start + 1, largest=largest)
    ]
    if catalogue is None:
        return rows
    contexts = neuron_contexts(neurons.to_frame(), catalogue, most=_CONTEXTS)
    return [replace(row, contexts=found) for row, found in zip(rows, contexts, strict=True)]


def _rows(
    q: ScoredCache,
    neurons: Neurons,
    words: TokenWords,
    answers: Sequence[tuple[int, str]],
    *,
    first: int,
    largest: float,
) -> list[NeuronRow]:
    directions = signed_directions(q.stream.model, neurons)
    by_target = [words.ranked(directions, target) for target in q.target.unique().tolist()]
    ranked, ranks = by_target[0], [min(each.rank for each in one) for one in zip(*by_target, strict=True)]
    wrote = list(neuron_writes(q.stream, q.places, neurons, torch.zeros_like(neurons.layer))) if answers else []
    logits = _logits(q, wrote, len(neurons)) if answers else [None] * len(neurons)
    changes = _changes(q, neurons, wrote, [token for token, _ in answers])
    keys = _keys(neurons, words)
    effects = [None] * len(neurons) if neurons.effect is None else neurons.effect.tolist()
    return [
        NeuronRow(
            rank=first + i,
            name=name,
            site=SITES[int(neurons.site[i])],
            source=int(neurons.source[i]),
            token="" if neurons.text is None else neurons.text.source(0, int(neurons.source[i])),
            coefficient=float(neurons.coefficient[i]),
            score=float(neurons.score[i]),
            share=abs(float(neurons.score[i])) / largest,
            effect=effects[i],
            switched_on_by=keys[i],
            promoted=ranked[i].promoted,
            suppressed=ranked[i].suppressed,
            target_rank=ranks[i],
            target_logit=logits[i],
            answers=tuple((text, float(changes[i, j])) for j, (_, text) in enumerate(answers)),
        )
        for i, name in enumerate(neurons.flat_labels)
    ]


def _keys(neurons: Neurons, words: TokenWords) -> Sequence[WordList | None]:
    """Return the tokens that switch each neuron on, where the architecture shows them."""
    try:
        return words.switched_on_by(neurons)
    except ValueError:  # the stream does not begin with the embeddings: the rest of the row needs none
        return [None] * len(neurons)


@torch.no_grad()
def _logits(q: ScoredCache, wrote: Sequence[SublayerWrites], count: int) -> list[float]:
    """Return what each of ``count`` value neurons adds to the target's logit, of what they wrote."""
    found = torch.zeros(count)
    column = q.readout.columns(q.target)[0]
    for each in wrote:
        found[each.which.cpu()] = (q.readout.norm.apply_unscaled(each.vectors) * q.readout.gain[0] @ column).to(found)
    return found.tolist()


@torch.no_grad()
def _changes(
    q: ScoredCache, neurons: Neurons, wrote: Sequence[SublayerWrites], tokens: list[int]
) -> Float[Tensor, "n target"]:
    """Return what each value neuron adds to the log-probability of each token, in nats, of what they wrote."""
    found = torch.zeros(len(neurons), len(tokens))
    for each in wrote:
        increase, which = q.increase(each.site, each.layer), each.which.cpu()
        if increase.contrast is None and increase.readout.transform is None:
            moved = _beside(increase, each.vectors, neurons.score[each.which], tokens)
        else:
            moved = _moved(increase, each.vectors, tokens)
        found[which] = moved.to(found)
    return found


def _beside(
    increase: Increase, written: Float[Tensor, "n d_model"], score: Float[Tensor, "n"], tokens: list[int]
) -> Float[Tensor, "n target"]:
    """Return the same as :func:`_moved` from the target's score: they differ by what was added to the two logits."""
    readout = increase.readout
    directions = readout.columns(torch.tensor(tokens, device=written.device)) - readout.columns(increase.target)
    apart = readout.norm.apply_unscaled(written) * readout.gain[0] @ directions.T
    return score.to(apart)[:, None] + apart


def _moved(increase: Increase, written: Float[Tensor, "n d_model"], tokens: list[int]) -> Float[Tensor, "n target"]:
    """Return what vectors added to one base stream change of the log-probabilities of some tokens."""
    logits = increase.logits.expand(len(written), -1)
    change = increase.change(increase.readout.contributions(written[None])[0], logits)
    return change[:, tokens] - log_sum_exp(change + increase.log_p())[:, None].to(change)
