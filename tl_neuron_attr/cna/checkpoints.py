"""Edited and pruned models as ordinary Hugging Face checkpoints, which ``transformers`` loads without this package.

A checkpoint's configuration has one MLP width for all layers. Where layers differ in width, narrower ones are filled up
with neurons of zeros, which write nothing: the same function in a larger file. Where all layers are alike, the width of
the configuration is made smaller.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked

_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
"""What configurations call the MLP width."""

_WRAPPED = "._original_component"


@typechecked
@torch.no_grad()
def save_checkpoint(model: Any, folder: str | Path) -> Path:
    """Write a model as it is now, with its tokenizer, as a Hugging Face checkpoint.

    ``transformers.AutoModelForCausalLM.from_pretrained(folder)`` and ``TransformerBridge.boot_transformers(folder)``
    load it. Before anything is written the checkpoint's model is run and compared with this one.

    Args:
        model: The model: a bridge that wraps a Hugging Face model; edited, pruned, with an adapter attached.
        folder: A folder that does not exist yet; it appears whole or not at all.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If an ordinary checkpoint would not compute what the model does: in compatibility mode, or with an
            adapter attached to an architecture that keeps query, key and value matrices in one.

    Examples:
        >>> from tempfile import mkdtemp
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> with tna.edit(model, [("mlp", 4, 17)]):
        ...     saved = save_checkpoint(model, Path(mkdtemp()) / "edited")
        >>> (saved / "config.json").exists()
        True
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder {folder} exists: give a new one")
    ordinary = ordinary_model(model)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        ordinary.save_pretrained(partial)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(partial)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


@torch.no_grad()
def ordinary_model(model: Any) -> Any:
    """A Hugging Face model that computes what a bridge does, sharing nothing with it.

    Raises:
        ValueError: If there is none.
    """
    wrapped = model.original_model
    tensors = {name.replace(_WRAPPED, ""): tensor for name, tensor in wrapped.state_dict().items()}
    widths = [len(mlp.W_out) for mlp in (block.mlp for block in model.blocks) if hasattr(mlp, "W_out")]
    ordinary = _of_width(wrapped, max(widths)) if widths else None
    ordinary = (ordinary or type(wrapped)(copy.deepcopy(wrapped.config))).to(model.W_U.dtype).eval()
    wanted = ordinary.state_dict()
    if missing := [name for name in wanted if name not in tensors]:
        raise ValueError(f"model lacks {missing[0]} of an ordinary {type(wrapped).__name__} checkpoint")
    ordinary.load_state_dict({name: _filled_up(tensors[name], like) for name, like in wanted.items()})
    _require_same(model, ordinary)
    return ordinary


def _of_width(wrapped: Any, width: int) -> Any:
    """A fresh model whose MLPs are ``width`` wide; None where the configuration cannot say so."""
    config = copy.deepcopy(wrapped.config)
    name = next((name for name in _WIDTHS if isinstance(getattr(config, name, None), int)), None)
    if name is None or getattr(config, name) == width:
        return None
    setattr(config, name, width)
    return type(wrapped)(config)


def _filled_up(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor with zeros after its end in every dimension, up to the shape of ``like``."""
    missing = [want - have for want, have in zip(like.shape, tensor.shape, strict=True)]
    return F.pad(tensor, [n for more in reversed(missing) for n in (0, more)])


def _require_same(model: Any, ordinary: Any) -> None:
    vocabulary = model.W_U.shape[1]
    tokens = torch.randint(vocabulary, (2, 8), generator=torch.Generator().manual_seed(0)).to(model.W_U.device)
    ordinary.to(model.W_U.device)
    theirs, ours = ordinary(tokens).logits.double(), model(tokens).double()
    tolerance = 1e-2 if model.W_U.dtype in (torch.float16, torch.bfloat16) else 1e-4
    if not bool((theirs - ours).norm() <= tolerance * ours.norm()):
        raise ValueError(
            f"an ordinary {type(ordinary).__name__} checkpoint would not compute what model does (relative difference "
            f"{float((theirs - ours).norm() / ours.norm()):.2g}): compatibility mode, and adapters attached to fused "
            "query-key-value matrices, cannot be saved; neither can hooks"
        )
