"""Which experts a router chose, and which components of the stream routed the token there.

A router is a reader of the stream like a neuron: its logit of an expert is the inner product of the expert's row with
what the MLP reads, so that with the norm's scale frozen each component below adds its own part (derived; the papers are
of dense models). Which experts are chosen depends on the differences between their logits alone.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.knowledge.vocabulary import prompt_tokens
from tl_neuron_attr.model.additive_checks import require_finite
from tl_neuron_attr.model.router_logits import router_logits
from tl_neuron_attr.model.scored import checked_stream
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import visible


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class RouterScores(PrintsAsTable):
    """What one layer's router chose at one position, and what made it choose so.

    Attributes:
        layer: The layer.
        pos: The position scored.
        tokens: The prompt's tokens.
        components: What wrote the stream that the router reads, and ``bias``: what no component wrote.
        routing: The router's weight of every expert at every position; zero where a token was not routed to it.
        logit: The model's own logits of the experts, at the position scored.
        contribution: What each component adds to each logit; they sum to it.
    """

    layer: int
    pos: int
    tokens: tuple[str, ...]
    components: tuple[str, ...]
    routing: Float[Tensor, "pos expert"]
    logit: Float[Tensor, "expert"]
    contribution: Float[Tensor, "expert component"]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The experts that the token scored was routed to, the one of largest weight first."""
        weight = self.routing[self.pos]
        return tuple(i for i in weight.argsort(descending=True).tolist() if weight[i] != 0)

    @property
    def score(self) -> Float[Tensor, "expert component"]:
        """How much each component speaks for an expert: what it adds to its logit, less the mean over all experts."""
        return self.contribution - self.contribution.mean(0, keepdim=True)

    def positions_of(self, expert: int) -> tuple[int, ...]:
        """Return the positions whose tokens were routed to an expert.

        Raises:
            IndexError: If there is no such expert, with the valid range.
        """
        within("expert", expert, self.routing.shape[1])
        return tuple(self.routing[:, expert].nonzero()[:, 0].tolist())

    def to_frame(self) -> pd.DataFrame:
        """Return one row per expert and component: its contribution and score, and whether the expert was chosen."""
        names = ["expert", "component"]
        index = pd.MultiIndex.from_product([range(len(self.logit)), self.components], names=names)
        values = {"contribution": self.contribution.flatten().tolist(), "score": self.score.flatten().tolist()}
        frame = pd.DataFrame(values, index=index).reset_index()
        frame["chosen"] = frame["expert"].isin(self.chosen)
        return frame

    def table(self) -> Table:
        """Return one row per expert chosen: weight, what spoke for it and against it most, and tokens sent there."""
        rows = [
            (
                f"L{self.layer}E{expert}",
                float(self.routing[self.pos, expert]),
                float(self.score[expert].sum()),
                self._named(expert, int(self.score[expert].argmax())),
                self._named(expert, int(self.score[expert].argmin())),
                self._tokens_of(expert),
            )
            for expert in self.chosen
        ]
        headings = (
            "expert",
            "router's weight",
            "logit above mean",
            "most for it",
            "most against it",
            "tokens sent to it",
        )
        return Table(headings, rows, f"{visible(self.tokens[self.pos])} @{self.pos}, of {len(self.logit)} experts")

    def _named(self, expert: int, component: int) -> str:
        return f"{self.components[component]} {float(self.score[expert, component]):+.3f}"

    def _tokens_of(self, expert: int) -> str:
        positions = self.positions_of(expert)
        shown = " ".join(f"{visible(self.tokens[i])}@{i}" for i in positions[:_SHOWN])
        return shown if len(positions) <= _SHOWN else f"{shown} and {len(positions) - _SHOWN} more"


_SHOWN = 5
"""Tokens named in a cell: more would wrap it in a terminal."""


@typechecked
@torch.no_grad()
def router_scores(
    cache: ActivationCache, layer: int, pos: int = -1, *, heads: bool = False, model: Any = None
) -> RouterScores:
    """Return which experts a layer's router chose at a position, and what each component below added to its logits.

    Weights and logits are the model's own; that the contributions add up to the logits is checked.

    Args:
        cache: A full cache of one prompt.
        layer: A layer with experts.
        pos: The position; the last by default.
        heads: Whether attention layers below are split into heads, and what none of them wrote.
        model: The model that made the cache; ``cache.model`` by default.

    Raises:
        ValueError: If the cache holds several prompts or lacks a hook, the layer has no router that can be read, or its
            logits are not linear in the stream.
        IndexError: If the layer or position is out of range.

    Examples:
        >>> import torch, transformers
        >>> import tl_neuron_attr as tna
        >>> from transformer_lens.model_bridge import TransformerBridge
        >>> tokenizer = tna.demo.load().tokenizer
        >>> sizes = {"hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> sizes |= {"num_key_value_heads": 4, "num_local_experts": 4}
        >>> config = transformers.MixtralConfig(vocab_size=len(tokenizer), **sizes)
        >>> mixture = transformers.MixtralForCausalLM(config).eval()
        >>> model = TransformerBridge.boot_transformers("tiny", hf_model=mixture, tokenizer=tokenizer, device="cpu")
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of")
        >>> found = router_scores(cache, layer=1)
        >>> len(found.chosen), found.components  # of four experts; what wrote the stream that the router reads
        (2, ('embed', 'L0 attn', 'L0 mlp', 'L1 attn', 'bias'))
        >>> bool(torch.allclose(found.contribution.sum(-1), found.logit, atol=1e-4))
        True
    """
    stream, at, _ = checked_stream(cache, SITES if heads else ("mlp",), pos=pos, model=model, reads=True)
    if len(at) != 1:
        raise ValueError(f"cache holds {len(at)} prompts; router_scores is of one: cache a single prompt")
    within("layer", layer, stream.n_layers)
    names, contribution, logit = router_logits(stream, layer, at, heads=heads)
    require_finite(stream, contribution, "the contributions to the router's logits")
    ids = stream.tokens()
    tokens = prompt_tokens(stream.model, ids)[0] if ids is not None else tuple(f"@{i}" for i in range(stream.shape[1]))
    routing = stream.routing_everywhere(layer)[0]
    return RouterScores(layer, int(at.pos[0]), tokens, names, routing, logit[0], contribution[0])
