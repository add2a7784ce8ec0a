"""What tells one model from another: every weight, and how its tokenizer reads text."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 24
"""Numbers hashed at a time: 64 MiB of float32, so that a large model on a GPU is never copied whole."""


_OF_A_CALL = ("padding", "truncation")
"""What a tokenizer keeps of the last call; no rule of its own."""


def model_fingerprint(model: Any) -> str:
    """Return a hash of every parameter and buffer: name, dtype, shape and values.

    All of them, since models that differ in one matrix give other results: edited, pruned, fine-tuned, with an adapter
    merged or attached. A few columns of the unembedding tell none of these apart.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> model_fingerprint(demo.load()) == model_fingerprint(demo.load())
        True
    """
    found = hashlib.sha256()
    for name, tensor in _tensors(model):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        for chunk in tensor.detach().reshape(-1).split(_CHUNK):
            found.update(chunk.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def tokenizer_fingerprint(model: Any) -> str:
    """Return a hash of the tokenizer's vocabulary and rules, and of whether a BOS is put before prompts.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> tokenizer_fingerprint(demo.load()) == tokenizer_fingerprint(demo.load())
        True
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        return "none"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    described = {
        "rules": {name: rule for name, rule in rules.items() if name not in _OF_A_CALL},
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "bos": getattr(model.cfg, "default_prepend_bos", None),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def require_no_hooks(model: Any) -> None:
    """Refuse a model that hooks change: results kept for later would not say so.

    Raises:
        ValueError: Naming the hooks.
    """
    if active := [name for name, point in model.hook_dict.items() if point.fwd_hooks]:
        some = ", ".join(active[:3]) + (" and more" if len(active) > 3 else "")
        raise ValueError(f"the model has active hooks at {some}: leave their `with` block, or reset_hooks(), first")


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer once, however many names it has."""
    yield from model.named_parameters()
    yield from model.named_buffers()
