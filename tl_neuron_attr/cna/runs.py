"""Prompts given as text or tokens, and runs of many cases compared batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformer_lens import ActivationCache

from tl_neuron_attr import guard
from tl_neuron_attr.cna.cases import Case, case_batches, require_cases
from tl_neuron_attr.cna.compare import NeuronComparison, compare_neurons
from tl_neuron_attr.intervene import ablate
from tl_neuron_attr.parts import Parts

Tokens = str | Int[Tensor, "pos"] | Int[Tensor, "batch pos"]
"""A prompt's text, its token ids, or those of a batch of prompts of one length."""

Run = Callable[[Int[Tensor, "batch pos"]], ActivationCache]
"""Runs a model on prompts, in some condition, and gives what its MLP neurons did."""


def token_batch(model: Any, tokens: Tokens) -> tuple[Int[Tensor, "batch pos"], bool]:
    """Token ids, and whether the user thinks of a batch.

    Raises:
        ValueError: If there is no token.
    """
    if isinstance(tokens, str):
        if not tokens:
            raise ValueError("tokens is an empty prompt")
        return model.to_tokens(tokens), False
    if tokens.numel() == 0:
        raise ValueError(f"tokens is empty, of shape {tuple(tokens.shape)}")
    return tokens.reshape(-1, tokens.shape[-1]).to(model.W_U.device), tokens.ndim == 2


def one_prompt(model: Any, tokens: Tokens) -> Int[Tensor, "1 pos"]:
    """The token ids of a single prompt.

    Raises:
        ValueError: If there are several prompts, or no token.
    """
    ids, _ = token_batch(model, tokens)
    if len(ids) != 1:
        raise ValueError(f"tokens hold {len(ids)} prompts; a chain is of one: pass tokens[0]")
    return ids


def plain(model: Any) -> Run:
    """Runs of the model as it is."""
    return lambda tokens: model.run_with_cache(tokens, names_filter=guard.needed_by(("mlp",)))[1]


def zeroing(model: Any, parts: Parts) -> Run:
    """Runs of the model with some heads or neurons zeroed."""

    def run(tokens: Int[Tensor, "batch pos"]) -> ActivationCache:
        with ablate(model, parts):
            return plain(model)(tokens)

    return run


def compared(
    mine: Run, other: Run, cases: Sequence[Case], *, batch_size: int, what: str, progress: bool
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"], Int[Tensor, "batch"], NeuronComparison]]:
    """Which cases, their tokens, their answers, and their MLP neurons in two runs: a batch of one length at a time."""
    require_cases(cases)
    with tqdm(total=len(cases), desc=what, unit="case", disable=not progress, delay=2) as bar:
        for batch in case_batches(cases, batch_size=batch_size):
            answers = torch.tensor([cases[i].answer for i in batch.indices])
            cache = mine(batch.tokens)
            yield batch.indices, batch.tokens, answers, compare_neurons(cache, other(batch.tokens), answers)
            bar.update(len(batch.indices))
