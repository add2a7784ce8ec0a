"""Prompts made of messages, as a chat model reads them."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import dimensions


@typechecked
def chat(model: Any, messages: Sequence[Mapping[str, str]]) -> Int[Tensor, "pos"]:
    """Return the tokens of messages by the tokenizer's chat template, up to where the model's next message begins.

    Give them to ``model.run_with_cache``, :func:`~tl_neuron_attr.answer` or :func:`~tl_neuron_attr.explain` as they
    are: the template writes the BOS itself, and no second one is put before it.

    Args:
        model: The model.
        messages: Mappings with ``role`` and ``content``, the last one the user's.

    Raises:
        ValueError: If the model has no tokenizer, its tokenizer no chat template, there is no message, a message has
            another form, or the template refuses them.

    Warns:
        UserWarning: If the template begins with two BOS; one of them is taken away.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> model.tokenizer.chat_template = "{{ bos_token }} {% for m in messages %}{{ m['content'] }}{% endfor %} ="
        >>> tokens = chat(model, [{"role": "user", "content": "3 + 5"}])
        >>> model.to_string(tokens)
        '<bos> 3 + 5 ='
        >>> model.tokenizer.chat_template = None
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("chat: the model has no tokenizer, so no template: make the token ids yourself")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "chat: the tokenizer has no chat template: set model.tokenizer.chat_template, or give plain text"
        )
    if not messages:
        raise ValueError("messages is empty: give at least one")
    for i, message in enumerate(messages):
        if set(message) != {"role", "content"}:
            raise ValueError(f"messages[{i}] must have 'role' and 'content', got {sorted(message)}")
    try:
        text = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything, most of all jinja2's own errors
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    ids = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        warnings.warn("the chat template begins with two BOS tokens: one of them was taken away", stacklevel=4)
        ids = ids[1:]
    return torch.tensor(ids, device=dimensions.device_of(model))
