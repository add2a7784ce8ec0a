"""Several matrices read as if they stood one below another: the write directions of experts, without a copy of them."""

from collections.abc import Sequence
from itertools import accumulate
from typing import overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class StackedRows:
    """Matrices of one width, their rows numbered through.

    A mixture of experts keeps its down projections in a layout in which the rows of all of them are no view. Here each
    matrix stays the view it is, and only the rows that are looked at are copied.

    Args:
        blocks: The matrices, at least one.

    Examples:
        >>> rows = StackedRows([torch.zeros(2, 3), torch.ones(4, 3)])
        >>> len(rows), rows.starts, rows[1:3].sum(1).tolist()
        (6, (0, 2), [0.0, 3.0])
    """

    def __init__(self, blocks: Sequence[Float[Tensor, "_ d_model"]]) -> None:
        self.blocks = list(blocks)
        ends = list(accumulate(len(block) for block in self.blocks))
        self.starts: tuple[int, ...] = (0, *ends[:-1])
        self.shape = torch.Size((ends[-1], self.blocks[0].shape[1]))
        self.dtype, self.device = self.blocks[0].dtype, self.blocks[0].device

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, at: int) -> Float[Tensor, "d_model"]: ...
    @overload
    def __getitem__(self, at: slice | Int[Tensor, "n"]) -> Float[Tensor, "n d_model"]: ...
    def __getitem__(self, at: "int | slice | Tensor") -> Tensor:
        """Return a row, a slice of rows or the rows listed, as a tensor."""
        if isinstance(at, Tensor):
            return self._listed(at)
        if isinstance(at, int):
            return self._listed(torch.tensor([at]))[0]
        start, stop, _ = at.indices(len(self))
        cut = [
            block[max(start - first, 0) : stop - first]
            for first, block in zip(self.starts, self.blocks, strict=True)
            if first < stop and start < first + len(block)
        ]
        return torch.cat(cut) if cut else self.blocks[0][:0]

    def block_of(self, rows: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Return the number of the matrix that each row is of."""
        return torch.searchsorted(torch.tensor(self.starts, device=rows.device), rows, right=True) - 1

    def products(
        self, vectors: Float[Tensor, "batch d_model"], wanted: Bool[Tensor, "neuron"]
    ) -> Float[Tensor, "batch neuron"]:
        """Return each vector's inner product with every row; zero in matrices of which no row is wanted."""
        found = vectors.new_zeros(len(vectors), len(self))
        for first, block in zip(self.starts, self.blocks, strict=True):
            if bool(wanted[first : first + len(block)].any()):
                found[:, first : first + len(block)] = vectors @ block.to(vectors.dtype).T
        return found

    def _listed(self, rows: Int[Tensor, "n"]) -> Float[Tensor, "n d_model"]:
        found = torch.empty(len(rows), self.shape[1], dtype=self.dtype, device=self.device)
        which = self.block_of(rows)
        for number in which.unique().tolist():
            mine = which == number
            found[mine] = self.blocks[number][rows[mine] - self.starts[number]]
        return found
