"""The logic chains of an answer of several tokens: one for each, behind the prompt and the tokens before it."""

from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.logic_chain import LogicChain, logic_chain
from tl_neuron_attr.model.answer_tokens import Answer, require_room
from tl_neuron_attr.model.components import NamedHead, head_name
from tl_neuron_attr.model.tokens import Tokens, one_prompt
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed
from tl_neuron_attr.results.token_text import visible

_PROMOTED = 4
"""Tokens listed of each chain's best neuron: enough to see what kind of word it is for."""


class ChainOptions(TypedDict, total=False):
    """Keyword arguments of :func:`~tl_neuron_attr.cna.logic_chain` that hold for each token of an answer."""

    head: NamedHead | None
    k: int
    shallow: int
    hops: int
    max_bytes: int
    progress: bool


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class LogicChains(PrintsAsTable):
    """How a prompt's tokens became an answer of several tokens.

    Attributes:
        answer: The answer's text.
        chains: One for each of its tokens, in their order.
    """

    answer: str
    chains: tuple[LogicChain, ...]

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, token: int) -> LogicChain:
        """Return the chain of one token of the answer."""
        return self.chains[token]

    @property
    def log_prob(self) -> float:
        """The answer's log-probability in nats: the sum of its tokens' (chain rule)."""
        return sum(float(chain.feature_predicting.effects.base_log_prob) for chain in self.chains)

    def table(self) -> Table:
        """Return one row per token: its head, what is left without it, and the root and best of the deep neurons."""
        headings = ("token", "probability", "head", "head zeroed", "explained", "root", "best deep neuron", "nats",
                    "promotes")  # fmt: skip
        caption = (
            f"{visible(''.join(self.chains[0].tokens).strip())} -> {visible(self.answer)}: log-probability "
            f"{self.log_prob:.4f} nats; each token's chain begins at the prompt and the tokens before it"
        )
        return Table(headings, [_row(chain) for chain in self.chains], caption)


@typechecked
@torch.no_grad()
def logic_chains(model: Any, prompt: Tokens, answer: str | Answer, **options: Unpack[ChainOptions]) -> LogicChains:
    """Run the four stages for each token of an answer, behind the prompt and the tokens before it.

    A chain follows what one position reads, and each token of an answer is predicted at a position of its own, by
    heads of its own: so there is one chain per token, and their log-probabilities add up to the answer's.

    Args:
        model: The model.
        prompt: One prompt, as text or token ids.
        answer: The answer, of one or several tokens; most begin with a space.
        **options: ``head``, ``k``, ``shallow``, ``hops``, ``max_bytes``, ``progress``: for every token as in
            :func:`~tl_neuron_attr.cna.logic_chain`.

    Raises:
        ValueError: If the answer is empty or does not fit in the model's context, or as
            :func:`~tl_neuron_attr.cna.logic_chain` for one of its tokens.
        IndexError: If the head is out of range.

    Warns:
        UserWarning: If the deep neurons of a token explain less than a quarter of what zeroing its head costs.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> chains = cna.logic_chains(demo.load(), "Tim Duncan plays the sport of", " basketball .", k=60)
        >>> [chain.answer for chain in chains]
        ['basketball', '.']
    """
    ids = one_prompt(model, prompt)
    whole = Answer.of(model, answer)
    require_room(model, ids.shape[1], whole)
    behind = torch.cat([ids, torch.tensor([whole.tokens], device=ids.device)], dim=1)
    chains = [
        logic_chain(model, behind[0, : ids.shape[1] + i], token, **options) for i, token in enumerate(whole.tokens)
    ]
    return LogicChains(whole.text, tuple(chains))


def _row(chain: LogicChain) -> tuple[object, ...]:
    predicting = chain.feature_predicting
    (best,) = predicting.neurons.top(1).to_frame().to_dict("records")
    return (
        visible(chain.answer),
        float(predicting.effects.base_prob),
        head_name(*chain.head),
        float(predicting.left),
        f"{chain.explained:.0%}",
        chain.prediction_enhancing.root_neuron.flat_labels[0],
        best["neuron"],
        best["score"],
        listed(best.get("promoted", []), _PROMOTED),
    )
