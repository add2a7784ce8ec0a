"""The model's own continuation of a prompt, each token explained from one run of the whole text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.knowledge.attribution import attribute_heads, attribute_layers
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.answer_places import PlacedAnswer
from tl_neuron_attr.model.answer_tokens import Answer
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.scored import scored_answers
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.tokens import one_prompt
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_text import prompt_in_quotes, text_of, token_text, visible

if TYPE_CHECKING:
    import pandas as pd


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Explanation(PrintsAsTable):
    """A continuation, each of its tokens with what raised its log-probability most; scores in nats.

    Attributes:
        prompt: The text before it.
        text: The continuation.
        tokens: Its tokens.
        prob: The probability of each.
        layers: The scores of layers, one row per token.
        heads: The scores of heads.
        neurons: The value neurons of each token.
    """

    prompt: str
    text: str
    tokens: tuple[str, ...]
    prob: Float[Tensor, "token"]
    layers: LayerScores
    heads: Float[Tensor, "token layer head"]
    neurons: Neurons

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per token: its probability, and the best sublayer, head and neuron with their scores."""
        import pandas as pd

        sublayers = torch.stack([self.layers.attn, self.layers.mlp], dim=-1).flatten(1)
        rows: list[dict[str, Any]] = []
        for i, token in enumerate(self.tokens):
            sublayer, head = int(sublayers[i].argmax()), int(self.heads[i].argmax())
            neuron = self.neurons[i]
            rows.append(
                {
                    "token": token,
                    "prob": float(self.prob[i]),
                    "layer": f"L{sublayer // 2} {'mlp' if sublayer % 2 else 'attn'}",
                    "layer_score": float(sublayers[i, sublayer]),
                    "head": head_name(*divmod(head, self.heads.shape[2])),
                    "head_score": float(self.heads[i].flatten()[head]),
                    "neuron": neuron.flat_labels[0],
                    "neuron_score": float(neuron.score[0]),
                    "promotes": list(neuron.text.of(neuron.keys[0])) if neuron.text else [],
                }
            )
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return one row per token."""
        rows = [
            (
                visible(row["token"]),
                row["prob"],
                *(f"{row[name]} {row[f'{name}_score']:+.2f}" for name in ("layer", "head", "neuron")),
                ", ".join(visible(token) for token in row["promotes"][:4]),
            )
            for row in self.to_frame().to_dict("records")
        ]
        headings = ("token", "probability", "best layer", "best head", "best neuron", "promotes")
        return Table(headings, rows, f"after {prompt_in_quotes(self.prompt)}; scores in nats")


@typechecked
@torch.no_grad()
def explain(
    model: Any,
    prompt: str | Int[Tensor, "pos"],
    *,
    max_new_tokens: int = 20,
    k: int = 10,
    max_bytes: int = MAX_BYTES,
) -> Explanation:
    """Let the model go on by itself, and explain each token it says.

    The likeliest token is taken each time, up to the end-of-text token or ``max_new_tokens``. The whole text is then
    run once more, and each token is explained at the position before it, in that one cache.

    Args:
        model: The model.
        prompt: A prompt (the tokenizer's BOS is put first), or its token ids, as :func:`~tl_neuron_attr.chat` makes
            them.
        max_new_tokens: How many tokens at the most.
        k: How many value neurons of each.
        max_bytes: A cap on the working set.

    Raises:
        ValueError: If the prompt is empty, ``max_new_tokens`` or ``k`` is below 1, or the prompt fills the model's
            context.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> explain(tna.demo.load(), "Tim Duncan plays the sport of", max_new_tokens=2).text
        'basketball .'
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    ids = one_prompt(model, prompt)
    continuation = _continuation(model, ids, max_new_tokens)
    whole = torch.cat([ids, torch.tensor([continuation], device=ids.device)], dim=1)
    _, cache = model.run_with_cache(whole)
    placed = PlacedAnswer(Answer(tuple(continuation)), result=0, sign=1, row=0, start=ids.shape[1] - 1)
    q = scored_answers(Stream(cache, model), [placed], max_bytes, batched=True).per_token
    tokens = tuple(token_text(model, token) for token in continuation)
    return Explanation(
        prompt=prompt if isinstance(prompt, str) else text_of(model, ids[0].tolist()),
        text=text_of(model, continuation),
        tokens=tokens,
        prob=q.log_prob.exp(),
        layers=attribute_layers(q, max_bytes=max_bytes),
        heads=attribute_heads(q, max_bytes=max_bytes),
        neurons=value_neurons(q, k=k, max_bytes=max_bytes),
    )


def _continuation(model: Any, ids: Int[Tensor, "1 pos"], most: int) -> list[int]:
    """Return the likeliest tokens, one after another, up to the end of the text.

    Raises:
        ValueError: If the model's context is too short for the first of them.
    """
    context = getattr(model.cfg, "n_ctx", None) or ids.shape[1] + most
    if ids.shape[1] >= context:
        raise ValueError(f"prompt is {ids.shape[1]} tokens and the model's context {context}: no room for another")
    continuation: list[int] = []
    while len(continuation) < min(most, context - ids.shape[1]):
        whole = torch.cat([ids, torch.tensor([continuation], dtype=torch.long, device=ids.device)], dim=1)
        continuation.append(int(model(whole)[0, -1, : dimensions.d_vocab(model)].argmax()))
        if continuation[-1] == getattr(model.tokenizer, "eos_token_id", None):
            break
    return continuation
