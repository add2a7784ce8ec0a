"""Head effects: what is left of a prediction after zeroing each head (paper 3, section 3.2), many heads in one run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import Head, NamedHeads, head_name, required_heads
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.rerun import Replay
from tl_neuron_attr.model.targets import Target, one_each
from tl_neuron_attr.model.tokens import Tokens, token_batch
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import score_dtype
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd

ZEROED = "give at least one (layer, head) pair, or None for all"
"""What to do where no head is given to zero."""

_SHOWN = 20


@dataclass(frozen=True, repr=False)
class HeadEffects(PrintsAsTable):
    """The target's probability and log-probability (nats) with each head zeroed, and untouched.

    Heads that were not asked for are NaN.

    Attributes:
        prob: The probability after zeroing the head.
        log_prob: The log-probability after zeroing the head.
        base_prob: The untouched model's probability.
        base_log_prob: The untouched model's log-probability.
    """

    prob: Float[Tensor, "*b layer head"]
    log_prob: Float[Tensor, "*b layer head"]
    base_prob: Float[Tensor, "*b"]
    base_log_prob: Float[Tensor, "*b"]

    @property
    def drop(self) -> Float[Tensor, "*b layer head"]:
        """How much log-probability zeroing the head takes away, in nats; negative where it adds some."""
        return self.base_log_prob[..., None, None] - self.log_prob

    def ranked(self) -> list[Head]:
        """The heads asked for, the largest drop first; of a batch, the mean drop."""
        mean = self.drop.reshape(-1, *self.drop.shape[-2:]).mean(0)
        order = mean.flatten().nan_to_num(-torch.inf).sort(descending=True, stable=True).indices
        heads = (divmod(i, mean.shape[1]) for i in order.tolist())
        return [head for head in heads if not bool(mean[head].isnan())]

    def table(self) -> Table:
        """The heads whose zeroing takes most, most first; of a batch, the mean."""
        prob, log_prob, drop = (
            grid.reshape(-1, *grid.shape[-2:]).mean(0) for grid in (self.prob, self.log_prob, self.drop)
        )
        rows = [
            (rank, head_name(layer, head), *(float(grid[layer, head]) for grid in (prob, log_prob, drop)))
            for rank, (layer, head) in enumerate(self.ranked()[:_SHOWN], 1)
        ]
        batch = f", mean of {self.base_prob.numel()} prompts" if self.base_prob.ndim else ""
        base = ("", "untouched", float(self.base_prob.mean()), float(self.base_log_prob.mean()), 0.0)
        headings = ("rank", "head zeroed", "probability", "log-probability", "drop")
        return Table(headings, [base, *rows], f"in nats{batch}")

    def to_frame(self) -> "pd.DataFrame":
        """A row a prompt and head asked for: prompt, layer, head, prob, log_prob, drop."""
        import pandas as pd

        grids = {name: getattr(self, name).reshape(-1, *self.prob.shape[-2:]) for name in ("prob", "log_prob", "drop")}
        at = [i.tolist() for i in (~grids["prob"].isnan()).nonzero(as_tuple=True)]
        values = {name: grid[tuple(torch.tensor(i) for i in at)].tolist() for name, grid in grids.items()}
        return pd.DataFrame({"prompt": at[0], "layer": at[1], "head": at[2], **values})


@typechecked
@torch.no_grad()
def head_effects(
    model: Any,
    tokens: Tokens,
    target: Target,
    *,
    heads: NamedHeads | None = None,
    pos: Pos = -1,
    batch_size: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> HeadEffects:
    """The target's probability and log-probability after zeroing each head, one head at a time (paper 3, 3.2).

    A head is zeroed at every position, as setting its columns of ``W_O`` to zero would, and the result is that of one
    whole run a head. It is had sooner: many heads share a run, the layers below a head are not run again, and only the
    scored position is unembedded; see :mod:`tl_neuron_attr.model.rerun`.

    Args:
        model: The model.
        tokens: A prompt (the tokenizer's BOS is put first), its token ids, or a batch of prompts of one length.
        target: The token followed: an id, a string that is one token, or one of them a prompt.
        heads: ``(layer, head)`` pairs; all heads by default.
        pos: The position scored, one for all prompts or one each; the last by default.
        batch_size: How many runs share a forward pass; by default as many as fit in ``max_bytes``.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar, once it takes more than a moment.

    Returns:
        ``.prob``, ``.log_prob`` (nats): ``Float["*b layer head"]``, ``*b`` absent for a single prompt;
        ``.base_prob``, ``.base_log_prob``: ``Float["*b"]``.

    Raises:
        IndexError: If a head, position or token id is out of range, or a head is named twice.
        ValueError: If the prompt is empty or padded before the position scored, or the target will not do.

    Warns:
        UserWarning: If the model's blocks cannot be skipped exactly: every head then takes a whole run.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> found = tna.head_effects(tna.demo.load(), "3 + 5 =", "8")
        >>> found.log_prob.shape == found.drop.shape, len(found.ranked())
        (True, 40)
    """
    ids, batched = token_batch(model, tokens)
    targets = one_each(model, target, len(ids)).to(ids.device)
    positions = from_start(pos, *ids.shape).to(ids.device).expand(len(ids))
    require_unpadded(model, ids, positions)
    wanted = required_heads(model, heads, fix=ZEROED)
    shape = (len(ids), model.cfg.n_layers, dimensions.n_heads(model, 0))
    log_prob = torch.full(shape, torch.nan, dtype=score_dtype(dimensions.dtype_of(model)), device=ids.device)
    base = torch.zeros(len(ids)).to(log_prob)
    for part in torch.arange(len(ids), device=ids.device).split(kept_within(model, ids.shape[1], max_bytes)):
        replay = Replay(model, ids[part], positions[part])
        base[part] = _followed(replay.logits, targets[part]).to(base)
        runs = batch_size or runs_within(model, ids.shape[1], max_bytes)
        for layer, head, rows, logits in zeroed(replay, wanted, batch_size=runs, progress=progress):
            log_prob[part[rows], layer, head] = _followed(logits, targets[part[rows]]).to(log_prob)
    found = [grid if batched else grid[0] for grid in (log_prob, base)]
    return HeadEffects(found[0].exp(), found[0], found[1].exp(), found[1])


def zeroed(
    replay: Replay, heads: Sequence[Head], *, batch_size: int, progress: bool = False
) -> Iterator[tuple[int, Int[Tensor, "run"], Int[Tensor, "run"], Float[Tensor, "run d_vocab"]]]:
    """Every head zeroed in every prompt: layer, heads, prompts and logits of some runs at a time."""
    model, n = replay.model, len(replay.logits)
    device = replay.logits.device
    with tqdm(total=len(heads) * n, desc="heads", unit="run", disable=not progress, delay=2) as bar:
        for layer in sorted({layer for layer, _ in heads}):
            of_layer = torch.tensor([head for at, head in heads if at == layer], device=device)
            head, row = (grid.flatten() for grid in torch.meshgrid(of_layer, torch.arange(n).to(device), indexing="ij"))
            for some, rows in zip(head.split(batch_size), row.split(batch_size), strict=True):
                with ablate(model, [[(layer, each)] for each in some.tolist()]):
                    yield layer, some, rows, replay.from_layer(layer, rows)
                bar.update(len(rows))


def runs_within(model: Any, length: int, max_bytes: int) -> int:
    """How many runs of ``length`` tokens have their widest activations in ``max_bytes``."""
    block = model.blocks[0]
    heads, d_head, d_model = block.attn.W_O.shape
    d_mlp = max(4 * d_model, getattr(model.cfg, "d_mlp", None) or 0)
    numbers = (
        length * (4 * d_model + 4 * heads * d_head + 3 * d_mlp) + 3 * heads * length**2 + 2 * dimensions.d_vocab(model)
    )
    return max(1, max_bytes // (numbers * dimensions.dtype_of(model).itemsize))


def kept_within(model: Any, length: int, max_bytes: int) -> int:
    """How many prompts have the streams of all their layers in a quarter of ``max_bytes``."""
    numbers = model.cfg.n_layers * length * dimensions.d_model(model)
    return max(
        1, min(max_bytes // (4 * numbers * dimensions.dtype_of(model).itemsize), runs_within(model, length, max_bytes))
    )


def require_unpadded(model: Any, ids: Int[Tensor, "batch pos"], pos: Int[Tensor, "batch"]) -> None:
    """Refuse prompts with padding before the position scored: without a mask it would be read as text.

    Raises:
        ValueError: Naming the prompts.
    """
    tokenizer = model.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or pad in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return
    seen = torch.arange(ids.shape[1], device=ids.device) <= pos[:, None]
    padded = ((ids == pad) & seen).any(1).nonzero()[:, 0].tolist()
    if padded:
        raise ValueError(
            f"prompts {padded} hold padding before the position scored: give prompts of one length, or pad on the "
            "right and pass pos="
        )


def _followed(logits: Float[Tensor, "run d_vocab"], target: Int[Tensor, "run"]) -> Float[Tensor, "run"]:
    return logits.to(score_dtype(logits.dtype)).log_softmax(-1).gather(1, target[:, None])[:, 0]
