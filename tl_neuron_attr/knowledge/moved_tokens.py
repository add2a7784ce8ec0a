"""What a neuron did to the distribution over tokens in its prompt (paper 1, Eq. 10 and 11)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.target_ranks import matched_batch
from tl_neuron_attr.knowledge.vocabulary import require_k
from tl_neuron_attr.model.components import component_lists
from tl_neuron_attr.model.neuron_writes import neuron_writes
from tl_neuron_attr.model.readable_tokens import ReadableTokens, best_tokens
from tl_neuron_attr.model.scored import as_scored
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.subkey_checks import require_same_cache
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase, log_sum_exp, read_out, rows_within
from tl_neuron_attr.numerics.ranked_tokens import ranks_of
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.probability_moved import MovedTokens
from tl_neuron_attr.results.token_text import token_text


@typechecked
@torch.no_grad()
def moved_tokens(
    cache: ActivationCache | ScoredCache,
    neurons: Neurons,
    target: Target | None = None,
    *,
    k: int = 10,
    readable: bool = False,
    max_bytes: int = MAX_BYTES,
    **scoring: Unpack[Scoring],
) -> MovedTokens:
    """Return the ``k`` tokens whose probability each neuron raised most, and lowered most, in this prompt.

    A raw projection lists what a neuron would promote were every token as likely; on small models that is often noise.
    What is listed here moved in this prompt: ``p(token | base + v) - p(token | base)`` (paper 1, Eq. 10 and 11), with
    ``v`` what the neuron wrote and ``base`` the stream its sublayer read. The raw projection stands beside it, and so
    do the target's own change, logit and rank.

    Args:
        cache: The cache the neurons were found in, or what :func:`~tl_neuron_attr.scored` made of it, which has its
            own target and scoring.
        neurons: Value neurons, of one prompt or of a batch.
        target: The token followed: an id, a string that is one token, or one of them per prompt.
        k: How many tokens.
        readable: List whole words and beginnings of words only, and count what is left out.
        max_bytes: A cap on the working set.
        **scoring: As in :func:`~tl_neuron_attr.scored`; a contrast changes nothing here.

    Raises:
        ValueError: If ``neurons`` is of another cache or position, the target is an answer of several tokens or a set,
            ``k`` is not between 1 and the size of the vocabulary, or ``readable`` is asked of a model without a
            tokenizer.
        IndexError: If a neuron is not of this model, or a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("Tim Duncan plays the sport of")
        >>> basketball = tna.scored(cache, " basketball")
        >>> moved = tna.moved_tokens(basketball, tna.value_neurons(basketball, k=3))
        >>> token, gained = moved.raised[0][0]  # what the best neuron made likelier
        >>> token, gained > 0.01
        ('basketball', True)
    """
    model = (cache.stream if isinstance(cache, ScoredCache) else cache).model
    component_lists(model, neurons)  # in range
    require_k(model, k)
    q = as_scored(cache, target, max_bytes=max_bytes, **scoring)
    if q.sums is not None:
        raise ValueError(
            f"moved_tokens is of one token at one position, and {q.followed} are several: pass one token of an answer, "
            "answer.per_token[i], with its own neurons, tna.value_neurons(answer.per_token[i])"
        )
    batch = matched_batch(q, neurons)
    prompts = torch.arange(len(q.places), device=q.target.device).repeat_interleave(len(batch))
    require_same_cache(q.stream, batch, q.places.select(prompts), "neurons")
    words, writes, rows = (
        ReadableTokens(model) if readable else None,
        _written(q, batch, prompts),
        list[tuple[Any, ...]](),
    )
    step = rows_within(max_bytes, q.readout)
    for start in range(0, len(writes), step):
        logits = q.readout.unembed(torch.stack([write.contributing for write in writes[start : start + step]]))
        rows += [_row(model, write, x, k, words) for write, x in zip(writes[start:], logits, strict=False)]
    *lists, moved, logit, rank, left_out = zip(*rows, strict=True)
    return MovedTokens(
        tuple(batch.flat_labels),
        *lists,
        target_moved=torch.stack(moved),
        target_logit=torch.stack(logit),
        target_rank=torch.stack(rank),
        left_out=sum(left_out) if readable else None,
    )


@dataclass(frozen=True)
class _Write:
    """What one neuron wrote, through the frozen norm, and which prompt's stream it was added to."""

    increase: Increase
    prompt: int
    contributing: Float[Tensor, "d_model"]


def _written(q: ScoredCache, neurons: Neurons, prompts: Int[Tensor, "n"]) -> list[_Write]:
    """Return what each neuron wrote; all streams written into are read out in one pass over ``W_U``."""
    written = list(neuron_writes(q.stream, q.places, neurons, prompts))
    increases = [q.increase(wrote.site, wrote.layer) for wrote in written]
    read_out(increases)
    writes: dict[int, _Write] = {}
    for increase, wrote in zip(increases, written, strict=True):
        row = prompts[wrote.which]
        contributing = q.readout.norm.apply_unscaled(wrote.vectors) * q.readout.gain[row][:, None]
        for i, prompt, vector in zip(wrote.which.tolist(), row.tolist(), contributing, strict=True):
            writes[i] = _Write(increase, prompt, vector)
    return [writes[i] for i in range(len(prompts))]


def _row(
    model: Any, write: _Write, x: Float[Tensor, "d_vocab"], k: int, words: ReadableTokens | None
) -> tuple[Any, ...]:
    """Return one neuron's fields of :class:`MovedTokens`, in their order; ``x`` is what it adds to the logits."""
    rows = torch.tensor([write.prompt], device=x.device)
    logits = write.increase.logits[rows]
    log_p = write.increase.transformed(logits)[0] - write.increase.log_normaliser[rows].to(x.dtype)
    change = write.increase.change(x[None], logits)[0]
    moved = log_p.exp() * (change - log_sum_exp((change + log_p)[None]).to(x.dtype)).expm1()
    target, best = write.increase.target[write.prompt], [best_tokens(v, k, words) for v in (moved, -moved, x, -x)]
    raised, lowered, promoted, suppressed = ([(token_text(model, int(t)), t) for t in tokens] for tokens, _ in best)
    return (
        tuple((text, float(moved[t])) for text, t in raised if moved[t] > 0),
        tuple((text, float(moved[t])) for text, t in lowered if moved[t] < 0),
        tuple(text for text, _ in promoted),
        tuple(text for text, _ in suppressed),
        token_text(model, int(target)),
        moved[target],
        x[target],
        ranks_of(x, target),
        sum(left_out for _, left_out in best),
    )
