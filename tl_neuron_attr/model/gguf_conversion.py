"""A GGUF file made into an ordinary checkpoint, once: its weights dequantised, its tokenizer beside them."""

import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tl_neuron_attr.model import model_cache
from tl_neuron_attr.model.gguf_header import GgufHeader, read_gguf_header
from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS, PackagedModel, installed_parts, join_parts, sha256_of

FORMAT = 1
"""Part of every key: raised whenever the conversion writes something else, so that no old folder is taken for new."""
PROVENANCE = "dequantised.json"
"""The file beside the weights that says what they were."""
_FLOAT_BYTES = 4
_DROPPED_KEYS = ("rope.scaling.factor", "rope.scaling.type", "logit_scale", "residual_scale", "embedding_scale")
_DROPPED_TENSORS = ("rope_freqs", "rope_factors")
"""What changes a model's numbers and transformers leaves out when it reads a GGUF file."""

_log = logging.getLogger(__name__)


def converted_file(path: Path) -> Path:
    """Return the checkpoint folder of a GGUF file, converted at its first use.

    Raises:
        ValueError: If the file is damaged, or transformers cannot read it faithfully.
        OSError: If the file is not there or the cache directory cannot be written.
        ImportError: If the package ``gguf`` is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no GGUF file {str(path)!r}")
    _require_reader()
    header = read_gguf_header(path)
    _require_faithful(header, path)
    title = str(header.values.get("general.name", path.stem))
    licence = header.values.get("general.license")
    named = {"title": title, "licence": str(licence) if licence else None, "source": path.name}
    digest = sha256_of([path])
    return model_cache.made_once(
        _key(path.stem, digest),
        lambda folder: _convert(path, header, folder, named | {"sha256": digest}),
        needs=_FLOAT_BYTES * header.n_weights,
    )


def converted_package(name: str) -> Path:
    """Return the checkpoint folder of a packaged model, converted at its first use; later the package is not needed.

    Raises:
        FileNotFoundError: If it is neither converted nor installed, with the pip command.
        ValueError: If the installed parts are not the published file.
    """
    model = PACKAGED_MODELS[name]
    key = package_key(name)
    if model_cache.cached_folder(key).is_dir():
        return model_cache.cached_folder(key)
    parts = installed_parts(model)
    _require_reader()
    digest = sha256_of(parts)
    if digest != model.sha256:
        raise ValueError(
            f"the installed file of {model.title} is not the published one: its SHA-256 is {digest}\n"
            f"and should be {model.sha256}. Nothing was converted; reinstall it:\n"
            f"    {model.pip_command.replace('install', 'install --force-reinstall')}"
        )
    # Four bytes a weight; Q4_1 and Q4_K_M hold at least half a byte each, so eight times the file, and the file itself.
    return model_cache.made_once(key, lambda folder: _convert_parts(model, parts, folder), needs=9 * model.size)


def package_key(name: str) -> str:
    """Return the cache's name for a packaged model: its short name, and which file of ours it is."""
    return _key(name, PACKAGED_MODELS[name].sha256)


def provenance(folder: Path) -> Mapping[str, Any] | None:
    """Return what a converted folder says of itself; None for any other folder.

    Raises:
        ValueError: If the file is malformed.
    """
    file = folder / PROVENANCE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(found["name"], str) and isinstance(found["prepend_bos"], bool)):
            raise TypeError("name or prepend_bos")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete {folder}, and the model is converted anew") from error
    return found


def _key(stem: str, digest: str) -> str:
    return f"{stem}-{digest[:16]}-{FORMAT}"


def _require_reader() -> None:
    if find_spec("gguf") is None:
        raise ImportError("reading a GGUF file needs the package gguf: pip install 'tl_neuron_attr[gguf]'")


def _require_faithful(header: GgufHeader, path: Path) -> None:
    """Refuse a file that transformers cannot read, or would read without something that changes its numbers."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    readable = sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"})
    if header.architecture not in readable:
        raise ValueError(
            f"{path.name} is of the architecture {header.architecture!r}, which transformers cannot read from GGUF.\n"
            f"It reads {', '.join(readable)}"
        )
    keys = [key for key in header.values if key.split(".", 1)[-1] in _DROPPED_KEYS and header.values[key] != "none"]
    tensors = [name for name in header.tensors if name.startswith(_DROPPED_TENSORS)]
    if keys or tensors:
        raise ValueError(
            f"{path.name} sets {', '.join(keys + tensors)}, which transformers leaves out when it reads GGUF:\n"
            "the numbers would be of another model. Load the original checkpoint"
        )


def _convert_parts(model: PackagedModel, parts: list[Path], folder: Path) -> None:
    whole = folder / "model.gguf"
    join_parts(parts, whole)
    named = {"title": model.title, "licence": model.licence, "source": model.source, "sha256": model.sha256}
    _convert(whole, read_gguf_header(whole), folder, named)
    whole.unlink()


def _convert(path: Path, header: GgufHeader, folder: Path, named: Mapping[str, str | None]) -> None:
    """Write weights, tokenizer and where they are from into ``folder``."""
    import transformers

    _log.warning("converting %s once, which takes up to a minute; later loads take seconds", named["title"])
    model, tokenizer = _read(path)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    licence = f"{named['licence']}; " if named["licence"] else ""
    written = dict(named) | {
        "name": f"{named['title']} ({licence}dequantised from {header.quantisation})",
        "quantisation": header.quantisation,
        "prepend_bos": _starts_with_bos(header, tokenizer),
        "transformers": transformers.__version__,
    }
    (folder / PROVENANCE).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a GGUF file, in float32.

    Raises:
        ValueError: If transformers fails on the file, or a weight of the model is not in it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"transformers cannot read {path.name}: {str(error).splitlines()[0]}") from error
    model, info = loaded
    lost = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if lost:
        raise ValueError(f"{path.name} lacks weights of its architecture: {', '.join(lost[:5])}; download it again")
    model.hf_quantizer = None  # dequantised: transformers would refuse to save it otherwise
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def _starts_with_bos(header: GgufHeader, tokenizer: Any) -> bool:
    """Return whether texts begin with the BOS token: what the file says, else what its tokenizer does."""
    stated = header.values.get("tokenizer.ggml.add_bos_token")
    if stated is not None:
        return bool(stated)
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
