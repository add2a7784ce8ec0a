"""What is scored, as text: it goes with a result into its table and its file."""

from typing import Any

import torch

from tl_neuron_attr.model.scored_cache import ScoredCache
from tl_neuron_attr.results.followed_text import FollowedText
from tl_neuron_attr.results.token_text import encodable, token_text


def followed_text(q: ScoredCache) -> FollowedText:
    """Return what is scored: of a model without a tokenizer by ids, of several right answers all of them.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> _, cache = tna.demo.load().run_with_cache("3 + 5 =")
        >>> print(followed_text(tna.scored(cache)))
        "8" after "<bos> 3 + 5 ="
    """
    model: Any = q.stream.model
    tokens = q.stream.tokens()
    first = torch.searchsorted(q.result_of_place, torch.arange(len(q), device=q.target.device))
    positions = q.places.pos[first].tolist()
    tokenizer: Any = model.tokenizer
    prompts: list[str] = []
    if tokens is not None and tokenizer is not None:
        prompts = [
            tokenizer.decode(tokens[row, : pos + 1]) for row, pos in zip(q.rows.tolist(), positions, strict=True)
        ]
    return FollowedText(
        prompts=tuple(encodable(prompt) for prompt in prompts),
        targets=_answers(q, 1),
        contrasts=_answers(q, -1),
        positions=tuple(positions),
        model=str(getattr(model.cfg, "model_name", "")),
    )


def _answers(q: ScoredCache, sign: int) -> tuple[str, ...]:
    """Return the text of each result's answers, or of its contrast's where ``sign`` is -1; none without a contrast."""
    model: Any = q.stream.model
    if q.sums is None:
        ids = q.target if sign == 1 else q.contrast
        return () if ids is None else tuple(token_text(model, token) for token in ids.tolist())
    found: list[list[str]] = [[] for _ in range(len(q))]
    for answer, (result, own) in enumerate(zip(q.sums.result.tolist(), q.sums.sign.tolist(), strict=True)):
        if own == sign:
            tokens = q.target[q.sums.answer == answer].tolist()
            found[result].append("".join(token_text(model, token) for token in tokens))
    return tuple(" | ".join(texts) for texts in found) if any(found) else ()
