"""The classifier of the paper's experiments: embedding, SRNN, linear head (paper 4, Eq. 17, section 4.2)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_neuron_attr.srnn.cells import CellName, Factory
from tl_neuron_attr.srnn.inputs import require_divisible
from tl_neuron_attr.srnn.module import SRNN
from tl_neuron_attr.srnn.slicing import require_integer

_Side = Literal["left", "right"]


class SRNNClassifier(nn.Module):
    """A map from documents to the logits of their classes, with the paper's sizes by default.

    Documents are word ids from 1 to ``vocabulary``; 0 is padding. Documents are padded or cut to T words, at the end as
    in the paper, or at the front (``padding="left"``) as in its code. The recurrence reads the padding, and its
    embedding is trained like any word's. With ``slice_len`` nothing is padded or cut: every document is read to its
    last word, whatever else is in the batch.

    Softmax turns the logits into probabilities (Eq. 17); ``torch.nn.functional.cross_entropy`` is the loss (Eq. 18).

    Args:
        vocabulary: The number of words.
        classes: The number of classes.
        embedding_size: The number of features of a word.
        hidden_size: The number of features of the state.
        n: The factor, or one per level, as :class:`SRNN` takes it.
        k: How often to cut, 2 by default.
        cell: The recurrence; the paper's own by default.
        T: The number of words after padding or cutting, a multiple of ``n^k``.
        padding: The side on which documents are padded and cut.
        slice_len: The number of words in a slice, for documents of any length.
        vectors: Word vectors to start the embedding from; the first row is the padding's.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Attributes:
        embedding: The word vectors, ``[vocabulary + 1, embedding_size]``.
        srnn: The :class:`SRNN`.
        head: The linear map to the classes.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is out of range, ``n^k`` does not divide T, or ``vectors`` and the embedding
            differ in shape.

    Examples:
        >>> model = SRNNClassifier(vocabulary=1000, classes=2, n=4, k=2, T=64)
        >>> logits = model(torch.randint(1, 1001, (3, 50)))  # [3 documents, 2 classes]
        >>> torch.allclose(logits.softmax(-1).sum(-1), torch.ones(3))
        True
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        embedding_size: int = 200,
        hidden_size: int = 50,
        n: int | Sequence[int] = 8,
        k: int | None = None,
        cell: CellName | Factory = "keras_gru",
        T: int = 512,
        padding: _Side = "right",
        slice_len: int | None = None,
        vectors: Float[Tensor, "row feature"] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "classes": classes, "embedding_size": embedding_size, "T": T}
        for name, value in sizes.items():
            require_integer(name, value, at_least=1)
        if padding not in get_args(_Side):
            raise ValueError(f"padding must be 'left' or 'right', got {padding!r}")
        self.vocabulary, self.T, self.padding = vocabulary, T, padding
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(vocabulary + 1, embedding_size, **place)
        self.srnn = SRNN(embedding_size, hidden_size, n, k, cell=cell, slice_len=slice_len, **place)
        self.head = nn.Linear(hidden_size, classes, **place)
        if slice_len is None:
            require_divisible("T", T, self.srnn.slicing.factors)
        if vectors is not None:
            self._start_from(vectors)

    def forward(self, ids: Int[Tensor, "batch step"]) -> Float[Tensor, "batch class"]:
        """Return the logits of each document's classes.

        Args:
            ids: Word ids, 0 for padding.

        Raises:
            IndexError: If an id is out of range.
            ValueError: If ``ids`` is not two-dimensional or empty, or with ``slice_len`` a document has no words.
        """
        if ids.ndim != 2 or 0 in ids.shape:
            raise ValueError(f"ids must be [batch, word], one of each at least, got shape {list(ids.shape)}")
        self._require_known(ids)
        if self.srnn.slicing.slice_len is not None:
            last, _ = self.srnn(self.embedding(ids), lengths=self._words(ids))
        else:
            last, _ = self.srnn(self.embedding(self.fit(ids)))
        return self.head(last)

    def fit(self, ids: Int[Tensor, "batch step"]) -> Int[Tensor, "batch _"]:
        """Return the documents padded with 0 or cut to T words, on the side given by ``padding``.

        Examples:
            >>> model = SRNNClassifier(vocabulary=9, classes=2, n=2, k=1, T=4, padding="left")
            >>> model.fit(torch.tensor([[1, 2, 3]])), model.fit(torch.tensor([[1, 2, 3, 4, 5]]))
            (tensor([[0, 1, 2, 3]]), tensor([[2, 3, 4, 5]]))
        """
        missing = self.T - ids.shape[1]
        return F.pad(ids, (missing, 0) if self.padding == "left" else (0, missing))

    def _words(self, ids: Tensor) -> Int[Tensor, "batch"]:
        """Return the number of words in each document, up to its last one."""
        words = ((ids != 0) * torch.arange(1, ids.shape[1] + 1, device=ids.device)).amax(1)
        if not torch.compiler.is_compiling() and not words.all():
            empty = words.eq(0).nonzero().flatten().tolist()
            raise ValueError(f"ids must hold a word in every document, {empty} are all padding: leave them out")
        return words

    def _require_known(self, ids: Tensor) -> None:
        if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
            return
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most > self.vocabulary:
            wrong = least if least < 0 else most
            raise IndexError(f"ids must be 0 for padding or a word, 1 to {self.vocabulary}, got {wrong}")

    @torch.no_grad()
    def _start_from(self, vectors: Tensor) -> None:
        wanted = self.embedding.weight
        if vectors.shape != wanted.shape:
            raise ValueError(
                f"vectors must be {list(wanted.shape)}, one row for padding and one per word, got {list(vectors.shape)}"
            )
        wanted.copy_(vectors)
