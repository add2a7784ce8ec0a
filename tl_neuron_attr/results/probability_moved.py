"""What neurons did to the distribution over tokens in one prompt, beside what they say in any."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked_fields
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed
from tl_neuron_attr.results.token_text import visible

if TYPE_CHECKING:
    import pandas as pd

Moved = tuple[tuple[str, float], ...]
"""Tokens, and how much probability each gained or lost, the most first."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class MovedTokens(PrintsAsTable):
    """The tokens whose probability neurons raised and lowered most in their prompt, and the target among all tokens.

    A probability moved is ``p(token | base + v) - p(token | base)``: ``v`` is what the neuron wrote, ``base`` the
    stream its sublayer read. The raw projection, which knows no prompt, stands beside it.

    Attributes:
        labels: The neurons, prompts one after another.
        raised: The tokens that gained most probability, with what each gained; none that gained nothing.
        lowered: The tokens that lost most probability, with what each lost, negative; none that lost nothing.
        promoted: The tokens whose logit each neuron raised most.
        suppressed: The tokens whose logit each neuron lowered most.
        target: The target of each neuron's prompt.
        target_moved: The probability that the target gained.
        target_logit: What each neuron added to the target's logit.
        target_rank: 1 where no token's logit was raised more than the target's, and so on.
        left_out: How many tokens that nobody can read stood before those listed; None where all are listed.
    """

    labels: tuple[str, ...]
    raised: tuple[Moved, ...]
    lowered: tuple[Moved, ...]
    promoted: tuple[tuple[str, ...], ...]
    suppressed: tuple[tuple[str, ...], ...]
    target: tuple[str, ...]
    target_moved: Float[Tensor, "n"]
    target_logit: Float[Tensor, "n"]
    target_rank: Int[Tensor, "n"]
    left_out: int | None = None

    def table(self) -> Table:
        """Return one row per neuron: probability moved in the prompt, then the raw projection."""
        columns = (self.labels, self.target, *self._of_target(), self.raised, self.lowered, self.promoted)
        rows = [
            (label, visible(token), gained, logit, rank, _moved(up), _moved(down), listed(promoted))
            for label, token, gained, logit, rank, up, down, promoted in zip(*columns, strict=True)
        ]
        note = "raised, lowered: change of probability in this prompt; promotes: raw projection"
        if self.left_out is not None:
            note += f"; words and their beginnings only, {plural(self.left_out, 'other token')} left out"
        headings = ("neuron", "target", "moved", "logit", "rank", "raised", "lowered", "promotes")
        return Table(headings, rows, note)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per neuron; ``raised`` and ``lowered`` hold (token, probability moved) pairs."""
        import pandas as pd

        moved, logit, rank = self._of_target()
        return pd.DataFrame(
            {
                "neuron": self.labels,
                "target": self.target,
                "target_moved": moved,
                "target_logit": logit,
                "target_rank": rank,
                "raised": [list(each) for each in self.raised],
                "lowered": [list(each) for each in self.lowered],
                "promoted": [list(each) for each in self.promoted],
                "suppressed": [list(each) for each in self.suppressed],
            }
        )

    def _of_target(self) -> tuple[list[float], list[float], list[int]]:
        return self.target_moved.tolist(), self.target_logit.tolist(), self.target_rank.tolist()


def _moved(tokens: Sequence[tuple[str, float]], limit: int = 3) -> str:
    return " | ".join(f"{visible(token)} {change:+.2g}" for token, change in tokens[:limit])
