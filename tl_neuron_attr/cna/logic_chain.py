"""The logic chain: the four stages from the prompt's tokens to the answer, in one call (paper 3, Tables 4 to 8)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.carried import carried_drops, explained_share
from tl_neuron_attr.cna.feature_enhancing import FeatureEnhancing, feature_enhancing
from tl_neuron_attr.cna.feature_predicting import FeaturePredicting, predicting_through
from tl_neuron_attr.cna.feature_transferring import FeatureTransferring, feature_transferring
from tl_neuron_attr.cna.head_effects import HeadEffects, head_effects
from tl_neuron_attr.cna.prediction_enhancing import PredictionEnhancing, prediction_enhancing
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens
from tl_neuron_attr.model.answer_tokens import Answer, AnyOf
from tl_neuron_attr.model.components import Head, NamedHead, head_name, required_head
from tl_neuron_attr.model.targets import Target, one_each
from tl_neuron_attr.model.tokens import Tokens, one_prompt
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.results.hardly_predicted import hardly_predicted
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import listed
from tl_neuron_attr.results.token_text import quoted, token_text, visible

_SHOWN = 5  # rows per stage of a printed table, so that all four fit on a screen

_CANDIDATES = 20
"""How many heads, those whose zeroing costs most, are tried for what they carried: one batch of as many runs."""

SMALL_SHARE = 0.25
"""The share of the head's effect below which a chain's neurons are said to explain little of it."""


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class LogicChain(PrintsAsTable):
    """How a prompt's tokens became the answer.

    Attributes:
        tokens: The prompt's tokens.
        answer: The text of the token followed.
        cache: The untouched run; a chain that is pickled or copied leaves the model out of it.
        feature_enhancing: Stage (a): shallow neurons at the tokens' positions.
        feature_transferring: Stage (b): what attention carried to the last position, hop by hop.
        feature_predicting: Stage (c): the head, and the deep neurons it switched on.
        prediction_enhancing: Stage (d): how those fed each other, and their root.
        explained: The share of the log-probability lost without the head that is lost, too, if only the deep neurons
            are set to what they are without it, at the last position: what the chain explains of the head's effect. NaN
            where that cannot be measured.
    """

    tokens: tuple[str, ...]
    answer: str
    cache: ActivationCache = field(compare=False)
    feature_enhancing: FeatureEnhancing
    feature_transferring: FeatureTransferring
    feature_predicting: FeaturePredicting
    prediction_enhancing: PredictionEnhancing
    explained: float = float("nan")

    @property
    def head(self) -> Head:
        """Return the head."""
        return self.feature_predicting.head

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "cache": ActivationCache(dict(self.cache.items()), None, self.cache.has_batch_dim)}

    def table(self) -> Table:
        """Return the strongest entries of every stage, from the tokens to the answer."""
        stages = (self._shallow(), self._carried(), self._deep(), self._fed())
        rows = [row for stage in stages for row in stage[:_SHOWN]]
        before, after = float(self.feature_predicting.effects.base_prob), float(self.feature_predicting.left)
        text = "".join(self.tokens).strip()
        caption = (
            f"{visible(text)} -> {visible(self.answer)}: probability {before:.4f}, with {head_name(*self.head)} zeroed "
            f"{after:.4f}; {self.says_explained()}deep neurons in nats, all else in contributions to pre-activations"
        )
        caption = f"{caption}\n{self.says_hardly_predicted()}".rstrip()
        return Table(("stage", "from", "to", "value", "promotes"), rows, caption)

    def says_hardly_predicted(self) -> str:
        """Return a sentence where the model hardly predicts the answer, so that no chain leads to it; else nothing."""
        return hardly_predicted(float(self.feature_predicting.effects.base_log_prob))

    def says_explained(self) -> str:
        """Return in words what share of the head's effect the chain explains; nothing where it was not measured."""
        if not isfinite(self.explained):
            return ""
        return f"its {len(self.feature_predicting.neurons)} deep neurons alone cost {self.explained:.0%} of that; "

    def _shallow(self) -> list[tuple[str, str, str, float, str]]:
        return [
            (
                "feature enhancing",
                f"{visible(row['token'])} @{row['pos']}",
                f"{row['neuron']} by {row['hop']}",
                row["sum"],
                f"{listed(row['before'], 3)} -> {listed(row['after'], 3)}",
            )
            for row in self.feature_enhancing.to_frame().to_dict("records")
        ]

    def _carried(self) -> list[tuple[str, str, str, float, str]]:
        return [
            ("feature transferring", f"{row['component']}, {visible(row['token'])} @{row['source']}", row["hop"],
             row["sum"], "")
            for row in self.feature_transferring.to_frame().to_dict("records")
        ]  # fmt: skip

    def _deep(self) -> list[tuple[str, str, str, float, str]]:
        frame, head = self.feature_predicting.neurons.to_frame(), head_name(*self.head)
        return [
            ("feature predicting", head, row["neuron"], row["score"], listed(row.get("promoted", []), 6))
            for row in frame.to_dict("records")
        ]

    def _fed(self) -> list[tuple[str, str, str, float, str]]:
        rows = self.prediction_enhancing.to_frame().to_dict("records")
        return [("prediction enhancing", row["from"], row["to"], row["sum"], "") for row in rows]


@typechecked
@torch.no_grad()
def logic_chain(
    model: Any,
    prompt: Tokens,
    target: Target | None = None,
    *,
    head: NamedHead | None = None,
    k: int = 30,
    layers: Sequence[int] | None = None,
    contrast: Target | None = None,
    shallow: int = 20,
    hops: int = 2,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> LogicChain:
    """Run the four stages on one prompt.

    1. :func:`~tl_neuron_attr.cna.feature_predicting`: the head that carried what the prediction needs most, and the MLP
       neurons whose increase it takes away;
    2. :func:`~tl_neuron_attr.cna.prediction_enhancing`: what those fed each other; their root;
    3. :func:`~tl_neuron_attr.cna.feature_transferring`: the root's key followed back through the head;
    4. :func:`~tl_neuron_attr.cna.feature_enhancing`: the shallow neurons that wrote what was carried.

    The paper takes the head whose zeroing costs most. On small models that is often a low head that every text needs at
    every position. So of the 20 that cost most, that one is taken whose output from earlier tokens, taken out at the
    last position alone, costs most; the paper's is ``head=head_effects(model, prompt, target).ranked()[0]``.

    Args:
        model: The model.
        prompt: One prompt, as text or token ids.
        target: The token followed; the model's own prediction by default.
        head: The head; by default the one that carried what log p(target) needs most.
        k: The most deep neurons: those whose increase falls with the head zeroed.
        layers: The layers that deep neurons are searched in; from the head's layer upwards by default.
        contrast: If given, deep neurons are found by ``log p(target) - log p(contrast)``.
        shallow: How many shallow neurons.
        hops: How often the key is followed back through attention.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar of the heads zeroed, which take most of the time.

    Raises:
        ValueError: If there are several prompts, the target is not one token
            (:func:`~tl_neuron_attr.cna.logic_chains` follows each token of an answer), or the head feeds no MLP neuron.
        IndexError: If the head or a layer is out of range.

    Warns:
        UserWarning: If the deep neurons explain less than a quarter of what zeroing the head costs.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> chain = cna.logic_chain(demo.load(), "3 + 5 =")
        >>> chain.answer, chain.prediction_enhancing.root_neuron.labels[0]
        ('8', 'L3N296')
    """
    ids = one_prompt(model, prompt)
    logits, cache = model.run_with_cache(ids)
    followed = int(logits[0, -1].argmax()) if target is None else _one_token(model, target)
    asked = None if head is None else [required_head(model, head)]
    effects = head_effects(model, ids[0], followed, heads=asked, max_bytes=max_bytes, progress=progress)
    chosen = asked[0] if asked else _carrying(model, ids, followed, effects, max_bytes)
    predicting = _that_fall(predicting_through(model, ids, followed, effects, chosen, k, layers, contrast, max_bytes))
    explained = explained_share(model, ids, followed, predicting)
    text = token_text(model, followed)
    if explained < SMALL_SHARE:
        warnings.warn(
            f"the chain's {len(predicting.neurons)} neurons explain {explained:.0%} of what zeroing "
            f"{head_name(*chosen)} costs: it is no full account of {quoted(text)}; a larger k= or another head= may be",
            stacklevel=2,
        )
    enhancing = prediction_enhancing(cache, predicting.neurons)
    transferring = feature_transferring(cache, enhancing.root_neuron, predicting.head, hops=hops)
    return LogicChain(
        tokens=prompt_tokens(model, ids)[0],
        answer=text,
        cache=cache,
        feature_enhancing=feature_enhancing(cache, transferring, k=shallow),
        feature_transferring=transferring,
        feature_predicting=predicting,
        prediction_enhancing=enhancing,
        explained=explained,
    )


def _one_token(model: Any, target: Target) -> int:
    """Return the token id of a target.

    Raises:
        ValueError: If it is not one token.
        IndexError: If it is outside the vocabulary.
    """
    if isinstance(target, Answer) or (isinstance(target, str) and model.tokenizer is not None):
        answer = Answer.of(model, target, "target")
        if len(answer) > 1:
            raise ValueError(
                f"target={quoted(answer.text)} is {len(answer)} tokens, and one chain follows one of them:\n"
                "cna.logic_chains(model, prompt, target) follows each in turn"
            )
        return answer.tokens[0]
    if isinstance(target, AnyOf):
        raise ValueError("target is a set of right answers, and one chain follows one token: give one of them")
    return int(one_each(model, target, 1)[0])


def _carrying(model: Any, ids: Int[Tensor, "1 pos"], target: int, effects: HeadEffects, max_bytes: int) -> Head:
    """Return the head that carried most of what log p(target) needs, of those whose zeroing costs most."""
    candidates = [head for head in effects.ranked()[:_CANDIDATES] if float(effects.drop[head]) > 0]
    if not candidates:
        return effects.ranked()[0]
    drops = carried_drops(model, ids, target, candidates, max_bytes=max_bytes)
    return candidates[int(drops.argmax())]


def _that_fall(found: FeaturePredicting) -> FeaturePredicting:
    """Return only the neurons whose increase is smaller without the head.

    Raises:
        ValueError: If there is none.
    """
    n = int((found.neurons.score > 0).sum())
    if n == 0:
        raise ValueError(
            f"zeroing {head_name(*found.head)} lowers no MLP neuron's increase: it feeds none; pass head=, for example "
            "one of a lower layer"
        )
    return found.top(n)
