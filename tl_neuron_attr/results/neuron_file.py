"""The file of :class:`~tl_neuron_attr.Neurons`: what it must hold to be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results import storage
from tl_neuron_attr.results.followed_text import FollowedText
from tl_neuron_attr.results.neuron_text import NeuronText

PLACE = ("site", "layer", "head", "source", "index")
"""The fields that say which neuron it is."""

_OF_TOKENS = ("token_score", "token_coefficient")
"""The fields with a number for every token of an answer; shorter answers have NaN coefficients behind their last."""

EXPERT = ("expert", "expert_index")
"""The fields that say the same of a neuron in a mixture of experts, whose ``index`` counts through all of them."""

_OPTIONAL = ("evaluated", "effect", "target_logit", "target_rank", *_OF_TOKENS, *EXPERT)
"""The fields a file may leave out."""

_ORDERS = ("descending", "ascending", "unsorted")
"""How the scores of a file may be sorted; most suppressing neurons are ascending, picked ones may be unsorted."""


def write(path: str | Path, tensors: Mapping[str, Tensor], text: NeuronText | None) -> None:
    """Write the neurons' fields and their text."""
    fields: dict[str, Any] = {} if text is None else {"sources": text.sources, "promoted": text.promoted}
    if text is not None and text.followed is not None:
        fields["followed"] = text.followed.as_json()
    storage.save_tensors(path, "neurons", tensors, {**fields, "order": _order(tensors["score"])})


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Read the fields of a file written by :func:`write`, and the text of its header, None if it has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a field is missing, unknown, of the wrong shape or dtype, out of range or not finite, or the
            scores are not sorted as the header says, naming the field.
    """
    required: dict[str, torch.dtype | None] = dict.fromkeys(PLACE, torch.int64)
    tensors, text = storage.load_tensors(path, "neurons", {**required, "coefficient": None, "score": None}, _OPTIONAL)
    _require_shapes(path, tensors)
    _require_places(path, tensors)
    for name in ("coefficient", "score", "effect", "target_logit", "token_score"):
        if name in tensors and not bool(tensors[name].isfinite().all()):
            raise ValueError(f"{path}: field {name!r} holds NaN or Inf")
    _require_order(path, tensors["score"], text.pop("order", None))
    return tensors, text or None


def read_text(path: str | Path, text: Mapping[str, Any], keys: list[str]) -> NeuronText:
    """Read the text of neurons known by ``keys`` from a header.

    Raises:
        ValueError: If it is not as :func:`write` left it, naming the field.
    """
    sources = storage.string_lists(path, text, "sources")
    followed = FollowedText.of_json(path, text["followed"]) if "followed" in text else None  # older files lack it
    return NeuronText(sources, storage.string_map(path, text, "promoted", required=keys), followed)


def _order(score: Tensor) -> str:
    steps = score.diff(dim=-1)
    if bool((steps <= 0).all()):
        return "descending"
    return "ascending" if bool((steps >= 0).all()) else "unsorted"


def _require_order(path: str | Path, score: Tensor, recorded: object) -> None:
    found = _order(score)
    if recorded is None and found == "unsorted":  # older files record no order and are sorted
        raise ValueError(f"{path}: field 'score' is not sorted")
    if recorded not in (None, *_ORDERS):
        raise ValueError(f"{path}: field 'text.order' is {recorded!r}, expected one of {', '.join(_ORDERS)}")
    if recorded not in (None, "unsorted", found) and bool((score.diff(dim=-1) != 0).any()):
        raise ValueError(f"{path}: field 'score' is {found}, the header says {recorded}")


def _require_shapes(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    shape = tensors["score"].shape
    if len(shape) not in (1, 2):
        raise ValueError(f"{path}: field 'score' has shape {tuple(shape)}, expected (k,) or (batch, k)")
    for name in EXPERT:
        column = tensors.get(name, tensors["index"])
        if column.dtype != torch.int64 or column.shape != shape or (EXPERT[0] in tensors) != (EXPERT[1] in tensors):
            raise ValueError(
                f"{path}: field {name!r} is {column.dtype} {tuple(column.shape)}, expected torch.int64 {tuple(shape)} "
                f"beside {' and '.join(EXPERT)}"
            )
    for name in ("effect", "target_logit"):
        values = tensors.get(name, tensors["score"])
        if not values.is_floating_point() or values.shape != shape:
            raise ValueError(
                f"{path}: field {name!r} is {values.dtype} {tuple(values.shape)}, expected a float {tuple(shape)}"
            )
    _require_ranks(path, tensors)
    evaluated = tensors.get("evaluated")
    _require_tokens(path, tensors)
    if evaluated is not None and (evaluated.dtype != torch.int64 or evaluated.shape != shape[:-1]):
        raise ValueError(
            f"{path}: field 'evaluated' is {evaluated.dtype} {tuple(evaluated.shape)}, expected torch.int64 "
            f"{tuple(shape[:-1])}"
        )


def _require_ranks(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    rank = tensors.get("target_rank", torch.ones_like(tensors["index"]))
    if rank.dtype != torch.int64 or rank.shape != tensors["score"].shape or bool((rank < 1).any()):
        raise ValueError(
            f"{path}: field 'target_rank' is {rank.dtype} {tuple(rank.shape)}, expected torch.int64 "
            f"{tuple(tensors['score'].shape)} of 1 and above"
        )


def _require_tokens(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse numbers of an answer's tokens that do not fit the neurons, or of which one half is missing."""
    given = [name for name in _OF_TOKENS if name in tensors]
    if not given:
        return
    if len(given) < len(_OF_TOKENS):
        raise ValueError(f"{path}: field {given[0]!r} stands alone, it goes with {' and '.join(_OF_TOKENS)}")
    shape, first = tensors["score"].shape, tensors[given[0]]
    expected = (*shape[:-1], first.shape[-2] if first.ndim > 1 else 1, shape[-1])
    for name in given:
        values = tensors[name]
        if not values.is_floating_point() or values.shape != expected:
            raise ValueError(f"{path}: field {name!r} is {values.dtype} {tuple(values.shape)}, expected {expected}")
    coefficients = tensors["token_coefficient"]
    missing = coefficients.isnan().any(-1)
    if bool((missing != coefficients.isnan().all(-1)).any() or coefficients.isinf().any()):
        raise ValueError(f"{path}: field 'token_coefficient' holds NaN or Inf")


def _require_places(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse neurons that no model has: an MLP neuron has neither head nor source, an attention neuron has a head."""
    site, head, source = (tensors[name] for name in ("site", "head", "source"))
    mlp = site == SITES.index("mlp")
    expert = tensors.get("expert", torch.full_like(site, -1))
    inner = tensors.get("expert_index", torch.full_like(site, -1))
    for name, wrong, expected in (
        ("site", (site < 0) | (site >= len(SITES)), "0 for attention or 1 for MLP"),
        ("layer", tensors["layer"] < 0, "0 or above"),
        ("index", tensors["index"] < 0, "0 or above"),
        ("head", torch.where(mlp, head != -1, head < 0), "-1 for an MLP neuron, 0 or above for an attention neuron"),
        ("expert", (expert < -1) | (~mlp & (expert != -1)), "-1 or above, -1 for an attention neuron"),
        ("expert_index", (inner >= 0) != (expert >= 0), "0 or above where field 'expert' is, -1 elsewhere"),
        ("source", torch.where(mlp, source != -1, source < -1), "-1 for an MLP neuron, -1 or above for attention"),
    ):
        if bool(wrong.any()):
            raise ValueError(f"{path}: field {name!r} holds {int(tensors[name][wrong][0])}, expected {expected}")
