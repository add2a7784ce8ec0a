"""One run of some prompts, kept so that runs which differ from it only above a layer skip what lies below.

Zeroing a head of layer L leaves the stream that layer L reads as it was. The model itself does the rest: its blocks
below L hand on the kept stream instead of computing, its embedding, masks and position codes are made for the new batch
as always, and only the scored position is unembedded. (The bridge's ``start_at_layer`` runs the lower blocks all the
same, and BLOOM's blocks ignore it.)
"""

import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.model.cache_checks import tolerance


class Replay:
    """A run to start again from any layer.

    Args:
        model: The model.
        tokens: The prompts.
        pos: The position whose logits are wanted, one a prompt, not negative.

    Attributes:
        logits: The run's own logits there.
        skips: Whether lower blocks are skipped. False where the model turned out not to allow it: starting at the last
            layer did not give its own logits back, of which a warning tells. Every run is then a whole one.
    """

    def __init__(self, model: Any, tokens: Int[Tensor, "batch pos"], pos: Int[Tensor, "batch"]) -> None:
        self.model, self._tokens, self._pos = model, tokens, pos
        self._streams: list[Tensor] = []
        self._returned: list[type] = []
        self.skips = False
        everything = torch.arange(len(tokens), device=tokens.device)
        with _watching(model, self._streams, self._returned):
            self.logits = self.from_layer(0, everything)
        self.skips = self._starts_again()

    def from_layer(self, layer: int, rows: Int[Tensor, "row"]) -> Float[Tensor, "row d_vocab"]:
        """The logits of prompts ``rows`` as the model is now, taking what layer ``layer`` reads from the kept run."""
        with ExitStack() as stack:
            stack.enter_context(_unembedding_only(self.model, self._pos[rows]))
            if self.skips and layer > 0:
                stream = self._streams[layer][rows]
                for block, returned in zip(self.model.blocks[:layer], self._returned, strict=False):
                    stack.enter_context(_handing_on(block, stream, as_tuple=returned is tuple))
            return self.model(self._tokens[rows])[:, 0]

    def _starts_again(self) -> bool:
        last, first = self.model.cfg.n_layers - 1, torch.zeros(1, dtype=torch.long, device=self._tokens.device)
        if len(self._streams) != last + 1 or not all(issubclass(each, (Tensor, tuple)) for each in self._returned):
            return self._warned()
        self.skips = True
        error = (self.from_layer(last, first) - self.logits[:1]).norm()
        self.skips = False
        return bool(error <= tolerance(self._streams[0].dtype) * self.logits[:1].norm()) or self._warned()

    def _warned(self) -> bool:
        warnings.warn(
            f"blocks of {type(self.model.blocks[0]).__name__} cannot be skipped exactly: every run is a whole one",
            stacklevel=5,
        )
        return False


@contextmanager
def _watching(model: Any, streams: list[Tensor], returned: list[type]) -> Generator[None]:
    """Keep what each block reads, and what kind of thing it returns."""

    def read(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        streams.append(args[0] if args else kwargs["hidden_states"])

    def wrote(block: Any, args: tuple[Any, ...], output: Any) -> None:
        returned.append(type(output))

    handles = [block.register_forward_pre_hook(read, with_kwargs=True) for block in model.blocks]
    handles += [block.register_forward_hook(wrote) for block in model.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _handing_on(block: Any, stream: Float[Tensor, "row pos d_model"], *, as_tuple: bool) -> Generator[None]:
    """While open, a block returns ``stream`` and computes nothing."""

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


@contextmanager
def _unembedding_only(model: Any, pos: Int[Tensor, "row"]) -> Generator[None]:
    """While open, logits are those of one position a row."""

    def pick(unembed: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][torch.arange(len(pos), device=pos.device), pos][:, None], *args[1:])

    handle = model.unembed.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
