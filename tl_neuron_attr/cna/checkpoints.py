"""Edited and pruned models as ordinary Hugging Face checkpoints, which ``transformers`` loads without this package.

A checkpoint's configuration has one MLP width for all layers. Where layers differ in width, narrower ones are filled up
with neurons of zeros, which write nothing: the same function in a larger file. Where all layers are alike, the width of
the configuration is made smaller.

To boot a model TransformerLens asks for attention patterns in its config, fills in missing special tokens, and reloads
its tokenizer so that BOS is always put first. None of that belongs to the model, and all of it is undone.
"""

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from tl_neuron_attr._typechecked import typechecked

_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
"""What configurations call the MLP width."""

_WRAPPED = "._original_component"
"""What a bridge puts into the names of the weights it wraps."""


@typechecked
@torch.no_grad()
def save_checkpoint(model: Any, folder: str | Path) -> Path:
    """Write a model's weights as they are now as a Hugging Face checkpoint, with config and tokenizer as first loaded.

    ``transformers.AutoModelForCausalLM.from_pretrained(folder)`` and ``TransformerBridge.boot_transformers(folder)``
    load it. Before anything is written the checkpoint's model is run and compared with this one.

    Args:
        model: The model: a bridge that wraps a Hugging Face model; edited, pruned, with an adapter attached.
        folder: A folder that does not exist yet; it appears whole or not at all.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If an ordinary checkpoint would not compute what the model does: in compatibility mode, or with an
            adapter attached to an architecture that keeps query, key and value matrices in one.

    Warns:
        UserWarning: If the tokenizer cannot be read again from where it came: it is then written as TransformerLens
            changed it.

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
            _tokenizer_as_given(model).save_pretrained(partial)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


@torch.no_grad()
def ordinary_model(model: Any) -> Any:
    """Return a Hugging Face model that computes what a bridge does, sharing nothing with it.

    Raises:
        ValueError: If there is none.
    """
    wrapped = model.original_model
    tensors = {name.replace(_WRAPPED, ""): tensor for name, tensor in wrapped.state_dict().items()}
    widths = [len(mlp.W_out) for mlp in (block.mlp for block in model.blocks) if hasattr(mlp, "W_out")]
    config = _of_width(_config_as_given(model), max(widths, default=0))
    ordinary = type(wrapped)(config).to(model.W_U.dtype).eval()
    ordinary.generation_config = _generation_as_given(wrapped, config)
    wanted = ordinary.state_dict()
    if missing := [name for name in wanted if name not in tensors]:
        raise ValueError(f"model lacks {missing[0]} of an ordinary {type(wrapped).__name__} checkpoint")
    ordinary.load_state_dict({name: _filled_up(tensors[name], like) for name, like in wanted.items()})
    _require_same(model, ordinary)
    return ordinary


def _of_width(config: Any, width: int) -> Any:
    """Return the config with MLPs of ``width``; unchanged where it does not say how wide they are."""
    name = next((name for name in _WIDTHS if isinstance(getattr(config, name, None), int)), None)
    if name is not None and width:
        setattr(config, name, width)
    return config


def _config_as_given(model: Any) -> Any:
    """Return a copy of the config without what TransformerLens wrote into it."""
    config = copy.deepcopy(model.original_model.config)
    given = _read_again(AutoConfig, config.name_or_path, model)
    if type(given) is not type(config):
        given = None
    if config.output_attentions:
        config.output_attentions = given is not None and given.output_attentions
    if given is not None and getattr(given, "pad_token_id", None) is None:
        config.pad_token_id = None
    return config


def _generation_as_given(wrapped: Any, config: Any) -> Any:
    """Return the defaults of ``generate`` without the attention patterns that TransformerLens asks for."""
    generation = copy.deepcopy(wrapped.generation_config)
    if generation is None or not generation.output_attentions:
        return generation
    return GenerationConfig.from_model_config(config)  # without a file of its own, it was made from the config


def _tokenizer_as_given(model: Any) -> Any:
    """Return the tokenizer as its source has it, with the tokens and the chat template it was given since."""
    ours = model.tokenizer
    given = _read_again(AutoTokenizer, ours.name_or_path, model)
    if given is not None:
        filled_in = {ours.bos_token, ours.eos_token, ours.pad_token}
        added = sorted((i, token) for token, i in ours.get_vocab().items() if token not in given.get_vocab())
        given.add_tokens([ours.added_tokens_decoder[i] for i, token in added if token not in filled_in])
        given.chat_template = ours.chat_template
        if given.get_vocab().items() <= ours.get_vocab().items():
            return given
    warnings.warn(
        f"the tokenizer cannot be read again from {ours.name_or_path!r}: it is saved as TransformerLens changed it, "
        "with BOS put first",
        stacklevel=4,
    )
    return ours


def _read_again(kind: Any, source: str, model: Any) -> Any:
    """Return what a model was made from; None where it is no longer there, or was never a file."""
    if not source:
        return None
    trusted = bool(getattr(model.cfg, "trust_remote_code", False))
    try:
        return kind.from_pretrained(source, trust_remote_code=trusted)
    except (OSError, ValueError, KeyError):
        return None


def _filled_up(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor with zeros after its end in every dimension, up to the shape of ``like``."""
    missing = [want - have for want, have in zip(like.shape, tensor.shape, strict=True)]
    return F.pad(tensor, [n for more in reversed(missing) for n in (0, more)])


def _require_same(model: Any, ordinary: Any) -> None:
    """Refuse a checkpoint whose logits on random tokens are not the model's."""
    vocabulary = model.W_U.shape[1]
    tokens = torch.randint(vocabulary, (2, 8), generator=torch.Generator().manual_seed(0)).to(model.W_U.device)
    ordinary.to(model.W_U.device)
    theirs, ours = ordinary(tokens).logits.double(), model(tokens).double()
    # a bridge and transformers add up in another order: a few hundred roundings of the dtype
    tolerance = 1e-2 if model.W_U.dtype in (torch.float16, torch.bfloat16) else 1e-4
    if not bool((theirs - ours).norm() <= tolerance * ours.norm()):
        raise ValueError(
            f"an ordinary {type(ordinary).__name__} checkpoint would not compute what model does (relative difference "
            f"{float((theirs - ours).norm() / ours.norm()):.2g}): compatibility mode, and adapters attached to fused "
            "query-key-value matrices, cannot be saved; neither can hooks"
        )
