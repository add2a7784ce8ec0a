"""The run that a correction acts in: it must be on the correction's prompts, and its positions must be known.

A generated text grows after the prompt. Without a key-value cache every step runs all positions again; with one it runs
only the new ones. The prompt's last position, counted from the left, is the same in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr.incontext.icl_batches import batch_of, require_alike
from tl_neuron_attr.incontext.icl_prompt import IclPrompt
from tl_neuron_attr.incontext.outcomes import Hook
from tl_neuron_attr.model.hook_points import TOKENS
from tl_neuron_attr.results.plural import plural


@dataclass
class MatchedRun:
    """The prompts of a correction, checked against the tokens of the run.

    Attributes:
        prompts: The prompts in the order of the batch, which may repeat them as a whole.
        length: The length of the longest one, to which the others are padded on the left.
        seen: Whether the run has been given the whole prompts.
    """

    prompts: Sequence[IclPrompt]
    length: int
    tokens: Int[Tensor, "prompt pos"]
    real: Int[Tensor, "prompt pos"]
    seen: bool = field(default=False)

    @classmethod
    def of(cls, model: Any, prompts: Sequence[IclPrompt]) -> "MatchedRun":
        """Return the run that a batch of prompts is to be matched with.

        Raises:
            ValueError: If there is no prompt, or the prompts have different labels.
        """
        require_alike(prompts)
        batch = batch_of(model, prompts)
        real = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask
        return cls(prompts, batch.tokens.shape[1], batch.tokens, real)

    @property
    def last(self) -> int:
        """Return the position of every prompt's last token."""
        return self.length - 1

    def hook(self) -> Hook:
        """Return the hook that checks the tokens of a run.

        Raises:
            ValueError: If the model is run on other prompts, or on only a part of them.
        """

        def look(tokens: Tensor, hook: Any) -> None:
            if tokens.shape[1] < self.length:
                if not self.seen:
                    raise ValueError(
                        f"the run is of {tokens.shape[1]} tokens, the prompts of {self.length}: run them whole before "
                        "going on with a key-value cache"
                    )
                return
            copies, rest = divmod(len(tokens), len(self.prompts))
            given = tokens[:, : self.length]
            if rest or bool(((given != self.tokens.repeat(copies, 1)) & (self.real.repeat(copies, 1) > 0)).any()):
                raise ValueError(
                    f"the correction is of {plural(len(self.prompts), 'prompt')} of up to {self.length} tokens, and "
                    f"the run is of others, in another order or padded otherwise ({tuple(tokens.shape)} tokens): run "
                    "batch_of(model, prompts), padded on the left"
                )
            self.seen = True

        return TOKENS, look

    def row(self, run: int, keys: int) -> int | None:
        """Return which position of a run is the prompts' last one; None if the run only has later ones.

        Args:
            run: The number of positions that are run.
            keys: The number of positions they attend to, including those in a key-value cache.

        Raises:
            ValueError: If the prompts are not attended to whole, or their beginning is in a cache only.
        """
        if keys < self.length:
            raise ValueError(lost_context(keys))
        if run == keys:
            return self.last
        if keys - run <= self.last:
            raise ValueError(
                f"the first {keys - run} of the prompts' {self.length} tokens are in a key-value cache only: run the "
                "prompts whole"
            )
        return None


def lost_context(keys: int) -> str:
    """Return the error message for a run that does not attend to the positions before it."""
    return (
        f"attention reaches {plural(keys, 'position')} and not the prompt before: a key-value cache that is "
        "lost on the way (TransformerLens 4.3 with transformers 5.24, most architectures) or slides; generate with "
        "use_past_kv_cache=False"
    )
