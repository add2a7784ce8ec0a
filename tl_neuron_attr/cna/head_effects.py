"""What zeroing each attention head does to a prediction (paper 3, Table 1, for one case)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.answer_runs import AnswerRuns
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.model.components import Head, NamedHeads, head_name, required_heads
from tl_neuron_attr.model.padding import Mask, real_spans, require_unpadded
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.rerun import rerun
from tl_neuron_attr.model.targets import Target, has_answers, one_each
from tl_neuron_attr.model.tokens import Tokens, token_batch
from tl_neuron_attr.numerics.increase import MAX_BYTES
from tl_neuron_attr.numerics.sublayer import score_dtype
from tl_neuron_attr.results import storage
from tl_neuron_attr.results.hardly_predicted import hardly_predicted
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd

ZEROED = "give at least one (layer, head) pair, or None for all"
"""What to do where no head is given to zero."""

_SHOWN = 20  # rows of a printed table: one screen
_GRIDS, _BASES = ("prob", "log_prob"), ("base_prob", "base_log_prob")


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class HeadEffects(PrintsAsTable):
    """The target's probability and log-probability (nats) with each head zeroed, and untouched.

    Heads that were not asked for are NaN.

    Attributes:
        prob: The probability after zeroing the head.
        log_prob: The log-probability after zeroing the head.
        base_prob: The untouched model's probability.
        base_log_prob: The untouched model's log-probability.
        tokens: How many tokens the longest answer followed has.
    """

    prob: Float[Tensor, "*b layer head"]
    log_prob: Float[Tensor, "*b layer head"]
    base_prob: Float[Tensor, "*b"]
    base_log_prob: Float[Tensor, "*b"]
    tokens: int = 1

    @property
    def drop(self) -> Float[Tensor, "*b layer head"]:
        """Return the log-probability lost by zeroing the head, in nats; negative where zeroing raises it."""
        return self.base_log_prob[..., None, None] - self.log_prob

    def ranked(self) -> list[Head]:
        """Return the heads asked for, the largest drop first; of a batch, by the mean drop."""
        mean = self.drop.reshape(-1, *self.drop.shape[-2:]).mean(0)
        order = mean.flatten().nan_to_num(-torch.inf).sort(descending=True, stable=True).indices
        heads = (divmod(i, mean.shape[1]) for i in order.tolist())
        return [head for head in heads if not bool(mean[head].isnan())]

    def table(self) -> Table:
        """Return the heads whose zeroing lowers the log-probability most; of a batch, the means."""
        prob, log_prob, drop = (
            grid.reshape(-1, *grid.shape[-2:]).mean(0) for grid in (self.prob, self.log_prob, self.drop)
        )
        rows = [
            (rank, head_name(layer, head), *(float(grid[layer, head]) for grid in (prob, log_prob, drop)))
            for rank, (layer, head) in enumerate(self.ranked()[:_SHOWN], 1)
        ]
        batch = f", mean of {plural(self.base_prob.numel(), 'prompt')}" if self.base_prob.ndim else ""
        base = ("", "untouched", float(self.base_prob.mean()), float(self.base_log_prob.mean()), 0.0)
        headings = ("rank", "head zeroed", "probability", "log-probability", "drop")
        most = float(self.base_log_prob.median())  # of a batch the middle: one prompt far off is not all of them
        caption = f"in nats{batch}\n{hardly_predicted(most, tokens=self.tokens)}".rstrip()
        return Table(headings, [base, *rows], caption)

    @typechecked
    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header; never a pickle, never half a file."""
        storage.save_tensors(
            path, "head_effects", {name: getattr(self, name) for name in (*_GRIDS, *_BASES)}, {"tokens": self.tokens}
        )

    @classmethod
    @typechecked
    def load(cls, path: str | Path) -> "HeadEffects":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is malformed, naming the field.
        """
        tensors, text = storage.load_tensors(path, "head_effects", dict.fromkeys(_GRIDS), _BASES)
        if missing := [name for name in _BASES if name not in tensors]:
            raise ValueError(f"{path}: field {missing[0]!r} is missing")
        for name in _BASES:
            storage.require_shape(path, tensors, name, tensors["prob"].shape[:-2])
        storage.require_finite_fields(path, {name: tensors[name] for name in _BASES})
        tokens = text.get("tokens", 1)
        if type(tokens) is not int or tokens < 1:
            raise ValueError(f"{path}: field 'text.tokens' must be a positive integer, got {tokens!r}")
        return cls(**tensors, tokens=tokens)

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per prompt and head asked for: prompt, layer, head, prob, log_prob, drop."""
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
    target: Target | None = None,
    *,
    heads: NamedHeads | None = None,
    pos: Pos = -1,
    attention_mask: Mask | None = None,
    batch_size: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> HeadEffects:
    """Return the target's probability and log-probability with each head zeroed, one head at a time (paper 3, Table 1).

    A head is zeroed at every position, as setting its rows of ``W_O`` to zero would, and the result is that of one
    whole run for each head. It is faster: many heads share a run, the layers below a head are not run again, and only
    the scored position is unembedded; see :mod:`tl_neuron_attr.model.rerun`. Threads that share a model take turns.

    Args:
        model: The model.
        tokens: A prompt (the tokenizer's BOS is put first), its token ids, or a batch of prompts of one length.
        target: The token followed: an id, a string that is one token, an answer of several put behind ``pos``
            (:class:`~tl_neuron_attr.Answer`), a set of right answers (:func:`~tl_neuron_attr.any_of`), or one of these
            for each prompt; by default what the model itself predicts.
        heads: ``(layer, head)`` pairs; all heads by default.
        pos: The position scored, one for all prompts or one each; by default the last real one of each prompt.
        attention_mask: 0 where a prompt of a batch is padded, on either side, and 1 elsewhere. Padding is cut off and
            each prompt is run as if it were alone.
        batch_size: How many runs share a forward pass; by default as many as fit in ``max_bytes``.
        max_bytes: A cap on the working set.
        progress: Whether to show a progress bar, once it takes more than a moment.

    Returns:
        ``.prob``, ``.log_prob`` (nats): ``Float["*b layer head"]``, ``*b`` absent for a single prompt;
        ``.base_prob``, ``.base_log_prob``: ``Float["*b"]``.

    Raises:
        IndexError: If a head, position or token id is out of range, or a head is named twice.
        ValueError: If the prompt or ``heads`` is empty, a prompt is or may be padded and no mask says where, ``pos`` is
            on padding, the target is not one token, or the logits hold NaN or Inf.

    Warns:
        UserWarning: If the model's blocks cannot be skipped exactly: every head then takes a whole run.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> found = tna.head_effects(tna.demo.load(), "3 + 5 =", "8")
        >>> bool(found.base_prob > 0.9), found.ranked()[0]
        (True, (3, 6))
    """
    ids, batched = token_batch(model, tokens)
    positions = _positions(ids, pos, attention_mask)
    wanted = required_heads(model, heads, fix=ZEROED)
    sets = [[], *([head] for head in wanted)]
    running, longest = {"batch_size": batch_size, "max_bytes": max_bytes}, 1
    if target is not None and has_answers(target):
        runs = _answer_runs(model, ids, target, positions, attention_mask)
        found, longest = _of_answers(model, runs, sets, progress, running), runs.most_tokens
    else:
        targets = None if target is None else one_each(model, target, len(ids)).to(ids.device)
        spans = _unpadded(model, ids, positions, attention_mask)
        found = _of_tokens(model, spans, targets, sets, len(ids), progress, running)
    grid = torch.full((len(ids), model.cfg.n_layers, dimensions.most_heads(model)), torch.nan).to(found)
    for i, (layer, head) in enumerate(wanted, 1):
        grid[:, layer, head] = found[:, i]
    without, base = (scores if batched else scores[0] for scores in (grid, found[:, 0]))
    return HeadEffects(without.exp(), without, base.exp(), base, longest)


def _of_tokens(
    model: Any,
    unpadded: Iterable[tuple[Int[Tensor, "n"], Int[Tensor, "n pos"], Int[Tensor, "n"]]],
    targets: Int[Tensor, "batch"] | None,
    sets: Sequence[Sequence[Head]],
    count: int,
    progress: bool,
    running: Mapping[str, Any],
) -> Float[Tensor, "batch set"]:
    """Return the log-probability of each prompt's token, or of its likeliest, with each set of heads zeroed."""
    device = dimensions.device_of(model)
    found = torch.empty(count, len(sets), dtype=score_dtype(dimensions.dtype_of(model)), device=device)
    with tqdm(total=len(sets) * count, desc="heads", unit="run", disable=not progress, delay=2) as bar:
        for which, prompts, at in unpadded:
            followed = _predictions(model, prompts, at) if targets is None else targets[which]
            for runs in rerun(model, prompts, sets, pos=at, bar=bar, **running):
                of = which[runs.prompts]
                found[of, runs.sets] = _log_prob(runs.logits, followed[runs.prompts]).to(found)
    return found


def _answer_runs(
    model: Any, ids: Int[Tensor, "batch pos"], target: Target, pos: Int[Tensor, "batch"], mask: Mask | None
) -> AnswerRuns:
    """Return the runs of prompts with the answers followed behind them.

    Raises:
        ValueError: If there is a mask, or the prompts may be padded.
    """
    if mask is not None:
        raise ValueError("attention_mask cannot be given with answers: give prompts of one length, or one at a time")
    require_unpadded(model, ids, pos)
    return AnswerRuns.of(model, ids, target, at=pos)


def _of_answers(
    model: Any, runs: AnswerRuns, sets: Sequence[Sequence[Head]], progress: bool, running: Mapping[str, Any]
) -> Float[Tensor, "batch set"]:
    """Return the log-probability of what is followed in each prompt with each set of heads zeroed: one pass for all."""
    dtype, rows = score_dtype(dimensions.dtype_of(model)), [runs.row(row) for row in range(len(runs.lengths))]
    found = torch.empty(len(runs.target), len(sets), dtype=dtype, device=runs.tokens.device)
    with tqdm(total=len(sets) * len(rows), desc="heads", unit="run", disable=not progress, delay=2) as bar:
        for batch in of_tokens(rows, batch_size=len(rows)):
            places = [runs.places_in(row) for row in batch.indices]
            most = max(map(len, places))
            own = torch.stack([each[torch.arange(most, device=each.device) % len(each)] for each in places])
            for some in rerun(model, batch.tokens, sets, pos=runs.places.pos[own], bar=bar, **running):
                followed = own[some.prompts]
                log_p = some.logits.to(dtype).log_softmax(-1).gather(2, runs.target[followed][..., None])[..., 0]
                found[followed, some.sets[:, None]] = log_p
    return runs.sums.log_probs(found)


def _positions(ids: Int[Tensor, "batch pos"], pos: Pos, attention_mask: Mask | None) -> Int[Tensor, "batch"]:
    """Return the positions scored; where they are not given, the last that the mask does not hide."""
    default = isinstance(pos, int) and pos == -1
    if default and attention_mask is not None and attention_mask.shape == ids.shape:
        places = torch.arange(ids.shape[1], device=ids.device)
        return places.where(attention_mask.to(ids.device) > 0, 0).amax(1)
    return from_start(pos, *ids.shape).to(ids.device).expand(len(ids))


def _predictions(model: Any, ids: Int[Tensor, "batch pos"], pos: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """Return the likeliest next token of each prompt."""
    return model(ids)[torch.arange(len(ids), device=ids.device), pos].argmax(-1)


def _unpadded(
    model: Any,
    ids: Int[Tensor, "batch pos"],
    pos: Int[Tensor, "batch"],
    attention_mask: Mask | None,
) -> Iterator[tuple[Int[Tensor, "batch"], Int[Tensor, "batch pos"], Int[Tensor, "batch"]]]:
    """Yield prompts of one length without their padding: which ones, their tokens, the positions scored."""
    if attention_mask is None:
        require_unpadded(model, ids, pos)
        yield torch.arange(len(ids), device=ids.device), ids, pos
        return
    spans = real_spans(ids, attention_mask, pos)
    begins = torch.tensor([begin for begin, _ in spans], device=ids.device)
    cut = [row[begin:end] for row, (begin, end) in zip(ids, spans, strict=True)]
    for batch in of_tokens(cut, batch_size=len(cut)):
        which = torch.tensor(batch.indices, device=ids.device)
        yield which, batch.tokens, pos[which] - begins[which]


def _log_prob(logits: Float[Tensor, "run d_vocab"], target: Int[Tensor, "run"]) -> Float[Tensor, "run"]:
    return logits.to(score_dtype(logits.dtype)).log_softmax(-1).gather(1, target[:, None])[:, 0]
