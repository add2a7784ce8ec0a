"""Run prompts again with heads zeroed, without running again what lies below them.

Zeroing a head of layer L leaves the stream that layer L reads as it was. The model itself does the rest: its blocks
below L hand on the kept stream instead of computing, its embedding, masks and position codes are made for the new batch
as always, and only the scored position is unembedded. (The bridge's ``start_at_layer`` runs the lower blocks all the
same, and BLOOM's blocks ignore it.)

While a run is under way the model is patched, so threads that share a model take turns.
"""

import warnings
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._turns import turn_on
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.additive_checks import tolerance
from tl_neuron_attr.model.components import Head, NamedHeads, required_heads
from tl_neuron_attr.model.head_projections import values_layer
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.numerics.increase import MAX_BYTES

_KEPT_SHARE = 4
"""Kept streams may take one part in so many of ``max_bytes``; the runs that start from them take the rest."""


@dataclass(frozen=True)
class Rerun:
    """Some runs with heads zeroed, in one forward pass.

    Attributes:
        sets: Which of the sets of heads was zeroed in each run.
        prompts: Which prompt each run is of.
        logits: The logits at the scored position, or at each of several.
    """

    sets: Int[Tensor, "run"]
    prompts: Int[Tensor, "run"]
    logits: Float[Tensor, "run *place d_vocab"]


@torch.no_grad()
def rerun(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    sets: Sequence[NamedHeads],
    *,
    pos: Int[Tensor, "batch *place"] | None = None,
    mask: Int[Tensor, "batch pos"] | None = None,
    batch_size: int | None = None,
    max_bytes: int = MAX_BYTES,
    bar: "tqdm[Any] | None" = None,
) -> Iterator[Rerun]:
    """Run every prompt with every set of heads zeroed, many runs in one forward pass.

    Args:
        model: The model.
        tokens: The prompts, of one length or padded.
        sets: The heads to zero together, by set. The empty set is the untouched model.
        pos: The position scored in each prompt, not negative, or as many in each; the last by default.
        mask: 0 where a prompt is padded, as in ``attention_mask``.
        batch_size: How many runs share a forward pass; by default as many as fit in ``max_bytes``.
        max_bytes: A cap on the working set.
        bar: A progress bar, moved on by one a run.

    Yields:
        Every pair of a set and a prompt, once, in no particular order.

    Raises:
        IndexError: If a head is out of range, or named twice in a set.
        ValueError: If the logits hold NaN or Inf.

    Warns:
        UserWarning: If the model's blocks cannot be skipped exactly: every run is then a whole one.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> model = demo.load()
        >>> found = {}
        >>> for runs in rerun(model, model.to_tokens("3 + 5 ="), [[], [(3, 2)]]):
        ...     best = (model.tokenizer.decode([token]) for token in runs.logits.argmax(-1).tolist())
        ...     found |= dict(zip(runs.sets.tolist(), best))
        >>> found[0]
        '8'
    """
    n, length = tokens.shape
    checked = [required_heads(model, heads) if heads else [] for heads in sets]
    depths = [min((layer for layer, _ in heads), default=model.cfg.n_layers) for heads in checked]
    kept_layers = sorted(set(depths) - {0, model.cfg.n_layers})
    runs = batch_size or runs_within(model, length, max_bytes, 1 if pos is None else pos[0].numel())
    last = torch.full((n,), length - 1, device=tokens.device) if pos is None else pos
    for prompts in torch.arange(n, device=tokens.device).split(
        _kept_within(model, length, len(kept_layers), max_bytes)
    ):
        kept = KeptRun(
            model,
            tokens[prompts],
            last[prompts],
            mask=None if mask is None else mask[prompts],
            layers=kept_layers,
        )
        for layer in sorted(set(depths)):
            at_layer = torch.tensor([i for i, depth in enumerate(depths) if depth == layer], device=tokens.device)
            rows = torch.arange(len(prompts), device=tokens.device)
            some_sets, some_rows = (grid.flatten() for grid in torch.meshgrid(at_layer, rows, indexing="ij"))
            for which, row in zip(some_sets.split(runs), some_rows.split(runs), strict=True):
                zeroed = [checked[i] for i in which.tolist()]
                yield Rerun(which, prompts[row], kept.without(zeroed, layer, row))
                if bar is not None:
                    bar.update(len(row))


class KeptRun:
    """A run to start again from any layer that was kept.

    Args:
        model: The model.
        tokens: The prompts.
        pos: The position whose logits are wanted, one for each prompt or as many for each, not negative.
        mask: 0 where a prompt is padded.
        layers: The layers to start again from; all by default.

    Attributes:
        logits: The run's own logits there.
        skips: Whether lower blocks are skipped. False, with a warning, where the model does not allow it: starting at a
            kept layer did not give its own logits back. Every run is then a whole one.

    Raises:
        ValueError: If the logits hold NaN or Inf.
    """

    def __init__(
        self,
        model: Any,
        tokens: Int[Tensor, "batch pos"],
        pos: Int[Tensor, "batch *place"],
        *,
        mask: Int[Tensor, "batch pos"] | None = None,
        layers: Collection[int] | None = None,
    ) -> None:
        self.model, self._tokens, self._mask = model, tokens, mask
        self._pos = pos.to(tokens.device)
        self._streams: dict[int, Tensor] = {}
        self._returned: dict[int, type] = {}
        self._layers = range(model.cfg.n_layers) if layers is None else sorted(layers)
        self.skips = False
        everything = torch.arange(len(tokens), device=tokens.device)
        with turn_on(model), _watching(model, self._layers, self._streams, self._returned):
            self.logits = self.from_layer(0, everything)
        require_finite_logits(model, self.logits)
        self.skips = self._starts_again()

    def without(
        self, zeroed: Sequence[Sequence[Head]], layer: int, rows: Int[Tensor, "row"]
    ) -> Float[Tensor, "row *place d_vocab"]:
        """Return the logits of prompts ``rows``, each with its own heads zeroed, none of them below ``layer``."""
        if layer == self.model.cfg.n_layers:
            return self.logits[rows.to(self.logits.device)]
        with turn_on(self.model), ablate(self.model, [list(heads) for heads in zeroed]):
            logits = self.from_layer(layer, rows)
        require_finite_logits(self.model, logits)
        return logits

    def from_layer(self, layer: int, rows: Int[Tensor, "row"]) -> Float[Tensor, "row *place d_vocab"]:
        """Return the logits of prompts ``rows`` as the model is now, from the kept stream that ``layer`` reads."""
        rows = rows.to(self._tokens.device)
        mask = {} if self._mask is None else {"attention_mask": self._mask[rows]}
        with turn_on(self.model), ExitStack() as stack:
            stack.enter_context(unembedding_only(self.model, self._pos[rows]))
            if self.skips and layer > 0:
                kept = self._streams[layer]
                stream = kept[rows.to(kept.device)]
                for i, block in enumerate(self.model.blocks[:layer]):
                    stack.enter_context(_handing_on(block, stream, as_tuple=self._returned[i] is tuple))
            logits = self.model(self._tokens[rows], **mask)
        return logits[:, 0] if self._pos.ndim == 1 else logits

    def _starts_again(self) -> bool:
        above = [layer for layer in self._layers if layer > 0]
        if not above:
            return True
        deepest, first = max(above), torch.zeros(1, dtype=torch.long, device=self._tokens.device)
        known = all(issubclass(each, (Tensor, tuple)) for each in self._returned.values())
        shared = any(values_layer(self.model, layer) != layer for layer in range(deepest, self.model.cfg.n_layers))
        if shared or set(self._streams) != set(self._layers) or not known:
            return self._warned()
        self.skips = True
        error = (self.from_layer(deepest, first) - self.logits[:1]).norm()
        self.skips = False
        return bool(error <= tolerance(self._streams[deepest].dtype) * self.logits[:1].norm()) or self._warned()

    def _warned(self) -> bool:
        warnings.warn(
            f"blocks of {type(self.model.blocks[0]).__name__} cannot be skipped exactly: every run is a whole one",
            stacklevel=6,
        )
        return False


def runs_within(model: Any, length: int, max_bytes: int, places: int = 1) -> int:
    """Return how many runs of ``length`` tokens, ``places`` of them scored, fit in ``max_bytes``."""
    layers = range(model.cfg.n_layers)
    heads, d_head = max(dimensions.head_sizes(model, layer) for layer in layers)
    d_model = dimensions.d_model(model)
    d_mlp = max(4 * d_model, getattr(model.cfg, "d_mlp", None) or 0)  # a config may understate it, or give none
    stream_and_qkvz, mlp, attention = 4 * d_model + 4 * heads * d_head, 3 * d_mlp, 3 * heads * length
    numbers = length * (stream_and_qkvz + mlp + attention) + 2 * places * dimensions.d_vocab(model)
    return max(1, max_bytes // (numbers * dimensions.dtype_of(model).itemsize))


def require_finite_logits(model: Any, logits: Float[Tensor, "row *place d_vocab"]) -> None:
    """Refuse logits that no probability can be read from: NaN or plus infinity.

    Raises:
        ValueError: Naming the weight that holds NaN or Inf, or the dtype that overflowed.
    """
    if bool((logits < torch.inf).all()):
        return
    broken = next((name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())), None)
    if broken is not None:
        raise ValueError(f"the model's weight {broken.replace('._original_component', '')} holds NaN or Inf")
    raise ValueError(
        f"the logits hold NaN or Inf, and no weight does: {logits.dtype} overflowed, a hook broke the run, or a "
        "float64 model was given padded prompts; run the model in float32 or bfloat16"
    )


@contextmanager
def unembedding_only(model: Any, pos: Int[Tensor, "row *place"]) -> Generator[None]:
    """Unembed one position per row only while open, or so many: logits are ``[row, place, d_vocab]``."""
    at = pos.reshape(len(pos), -1)

    def select(unembed: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        here = at.to(args[0].device)
        return (args[0][torch.arange(len(here), device=here.device)[:, None], here], *args[1:])

    with turn_on(model):
        handle = model.unembed.register_forward_pre_hook(select)
        try:
            yield
        finally:
            handle.remove()


def unembedding_last(model: Any, tokens: Int[Tensor, "batch pos"]) -> AbstractContextManager[None]:
    """Unembed the last position only, while open, in runs on ``tokens``."""
    return unembedding_only(model, torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device))


def _kept_within(model: Any, length: int, layers: int, max_bytes: int) -> int:
    """Return how many prompts fit with the streams of some layers kept, and their logits."""
    numbers = max(1, layers) * length * dimensions.d_model(model)
    streams = max_bytes // (_KEPT_SHARE * numbers * dimensions.dtype_of(model).itemsize)
    return max(1, min(streams, runs_within(model, length, max_bytes)))


@contextmanager
def _watching(
    model: Any, layers: Collection[int], streams: dict[int, Tensor], returned: dict[int, type]
) -> Generator[None]:
    """Keep what the blocks of ``layers`` read, and what kind of thing each block returns."""

    def keep_input(layer: int) -> Any:
        def read(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            streams[layer] = args[0] if args else kwargs["hidden_states"]

        return read

    def keep_type(layer: int) -> Any:
        def wrote(block: Any, args: tuple[Any, ...], output: Any) -> None:
            returned[layer] = type(output)

        return wrote

    blocks = model.blocks
    handles = [blocks[layer].register_forward_pre_hook(keep_input(layer), with_kwargs=True) for layer in layers]
    handles += [block.register_forward_hook(keep_type(layer)) for layer, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _handing_on(block: Any, stream: Float[Tensor, "row pos d_model"], *, as_tuple: bool) -> Generator[None]:
    """Let a block return ``stream`` and compute nothing while open."""

    def forward(*args: object, **kwargs: object) -> object:
        return (stream, None) if as_tuple else stream

    own = vars(block)  # a bridge's setattr would reach through to the module it wraps
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        if before is not None:
            own["forward"] = before
