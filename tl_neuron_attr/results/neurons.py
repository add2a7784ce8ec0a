"""The results: frozen, printed as tables, turned into data frames, saved without pickle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr.numerics.sublayer import SITES, Site
from tl_neuron_attr.results import storage
from tl_neuron_attr.results.table import PrintsAsTable, Table
from tl_neuron_attr.results.token_lists import Words, listed
from tl_neuron_attr.results.token_text import visible

if TYPE_CHECKING:
    import pandas as pd

PLACE = ("site", "layer", "head", "source", "index")
"""The fields of :class:`Neurons` that say which neuron it is."""

COLUMNS = (*PLACE, "coefficient", "score")
"""The fields of :class:`Neurons` with a number for every neuron."""


@dataclass(frozen=True, repr=False)
class Neurons(PrintsAsTable):
    """Neurons in descending order of score (ascending for the most suppressing ones), ties by index.

    Attributes:
        site: 0 for attention, 1 for MLP (:data:`SITES`).
        layer: The block.
        head: The head of an attention neuron; -1 for an MLP neuron.
        source: The position an attention neuron read; -1 for an MLP neuron.
        index: The dimension of the head, or the neuron of the MLP.
        coefficient: How far the neuron moved along its direction: ``pattern * v``, or the post-activation.
        score: In nats.
        evaluated: How many neurons were scored exactly to certify the result, where it came from a search.
        words: Text for the tables, read on demand.
    """

    site: Int[Tensor, "*b k"]
    layer: Int[Tensor, "*b k"]
    head: Int[Tensor, "*b k"]
    source: Int[Tensor, "*b k"]
    index: Int[Tensor, "*b k"]
    coefficient: Float[Tensor, "*b k"]
    score: Float[Tensor, "*b k"]
    evaluated: Int[Tensor, "*b"] | None = None
    words: "Callable[[Neurons], Words] | None" = field(default=None, compare=False)

    def __len__(self) -> int:
        return self.score.shape[-1]

    @property
    def batched(self) -> bool:
        """Whether the neurons are of a batch of prompts."""
        return self.score.ndim == 2

    @property
    def labels(self) -> list[str] | list[list[str]]:
        """``L23N6740`` for an MLP neuron, ``L21H0D79@3`` for dimension 79 of head 0 at source 3; a list a prompt."""
        names, k = self.flat_labels, len(self)
        return [names[i * k : (i + 1) * k] for i in range(len(self.score))] if self.batched else names

    def top(self, k: int) -> "Neurons":
        """The first ``k``.

        Raises:
            ValueError: If ``k`` is not between 1 and the number of neurons.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be between 1 and {len(self)}, got {k}")
        return self._select((..., slice(k)))

    def pick(self, places: Sequence[int]) -> "Neurons":
        """The neurons at some places of the ranking."""
        return self._select((..., list(places)))

    def __getitem__(self, prompt: int) -> "Neurons":
        """The neurons of one prompt of a batch."""
        if not self.batched:
            raise TypeError("these neurons are of a single prompt; use top(k)")
        batch = self.score.shape[0]
        if not -batch <= prompt < batch:
            raise IndexError(f"prompt must lie between {-batch} and {batch - 1}, got {prompt}")
        return replace(
            self._select(prompt), words=None if self.words is None else partial(_of_prompt, self.words, prompt)
        )

    @property
    def keys(self) -> list[str]:
        """What :class:`Words` knows each neuron by: its direction and the sign of its coefficient, prompts in a row."""
        signs = ("-" if c < 0 else "+" for c in self.coefficient.flatten().tolist())
        return [label.split("@")[0] + sign for label, sign in zip(self.flat_labels, signs, strict=True)]

    def table(self) -> Table:
        """Rank, neuron, source token, coefficient, score and promoted tokens; the prompt where there are several."""
        k, names, keys, cells = len(self), self.flat_labels, self.keys, self._columns()
        several = len(names) > k
        words = self.words(self) if self.words else None
        rows = [
            (
                *((at // k,) if several else ()),
                at % k + 1,
                name,
                self._source_text(words, at // k, int(cells["source"][at])),
                cells["coefficient"][at],
                cells["score"][at],
                *((listed(words.promoted[keys[at]]),) if words else ()),
            )
            for at, name in enumerate(names)
        ]
        headings = ("rank", "neuron", "source", "coefficient", "score", *(("promotes",) if words else ()))
        return Table((*(("prompt",) if several else ()), *headings), rows, "scores in nats")

    def to_frame(self) -> "pd.DataFrame":
        """A row a neuron, in order, with everything the table shows."""
        import pandas as pd

        k, cells = len(self), self._columns()
        words = self.words(self) if self.words else None
        frame = pd.DataFrame({**cells, "site": [SITES[i] for i in cells["site"]]})
        frame.insert(0, "neuron", self.flat_labels)
        frame.insert(0, "rank", [i % k + 1 for i in range(len(frame))])
        if self.batched:
            frame.insert(0, "prompt", [i // k for i in range(len(frame))])
        if words:
            frame["source_token"] = [words.source(i // k, int(s)) for i, s in enumerate(cells["source"])]
            frame["promoted"] = [list(words.promoted[key]) for key in self.keys]
        return frame

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header; never a pickle, never half a file."""
        words = self.words(self) if self.words else None
        text = {} if words is None else {"sources": words.sources, "promoted": words.promoted}
        storage.save(path, "neurons", {name: getattr(self, name) for name in self._saved()}, text)

    @classmethod
    def load(cls, path: str | Path) -> "Neurons":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is malformed, naming the field.
        """
        required = dict.fromkeys(PLACE, torch.int64)
        tensors, text = storage.load(path, "neurons", {**required, "coefficient": None, "score": None}, ("evaluated",))
        stored: dict[str, Any] = dict(tensors)
        neurons = cls(**stored)
        if not text:
            return neurons
        words = Words(
            storage.string_lists(path, text, "sources"),
            storage.string_map(path, text, "promoted", required=neurons.keys),
        )
        return replace(neurons, words=partial(_same, words))

    def squeeze(self, *, batched: bool) -> "Neurons":
        """Without the batch dimension, unless ``batched``."""
        return self if batched else self[0]

    def of_site(self, site: Site) -> "Neurons":
        """One prompt's neurons of a site, in order.

        Raises:
            TypeError: If the neurons are of several prompts.
        """
        if self.batched and len(self.score) > 1:
            raise TypeError(f"these neurons are of {len(self.score)} prompts; take one prompt's: neurons[i]")
        one = self[0] if self.batched else self
        return one._select(one.site == SITES.index(site))

    def mlp_indices(self, layer: int) -> Int[Tensor, "n"]:
        """One prompt's MLP neurons of a layer, in order: what TransformerLens' ``neuron_basis`` takes.

        Raises:
            TypeError: If the neurons are of several prompts.
        """
        mlp = self.of_site("mlp")
        return mlp.index[mlp.layer == layer]

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The ``(layer, head)`` pairs of one prompt's attention neurons, the first found first, none twice.

        Raises:
            TypeError: If the neurons are of several prompts.
        """
        attn = self.of_site("attn")
        return list(dict.fromkeys(zip(attn.flat("layer"), attn.flat("head"), strict=True)))

    def unsqueeze(self) -> "Neurons":
        """The neurons as a batch of one prompt."""
        return self._select(None)

    def _saved(self) -> list[str]:
        return [f.name for f in fields(self) if f.name != "words" and getattr(self, f.name) is not None]

    def _select(self, at: object) -> "Neurons":
        cut: dict[str, Any] = {name: getattr(self, name)[at] for name in self._saved() if name != "evaluated"}
        if (at is None or isinstance(at, int)) and self.evaluated is not None:
            cut["evaluated"] = self.evaluated[at]
        return replace(self, **cut)

    def flat(self, name: str) -> list[Any]:
        """A field as a list, prompts in a row."""
        return getattr(self, name).flatten().tolist()

    @property
    def flat_labels(self) -> list[str]:
        """:attr:`labels`, prompts in a row."""
        rows = zip(*map(self.flat, PLACE), strict=True)
        return [
            f"L{la}N{i}" if SITES[int(s)] == "mlp" else f"L{la}H{h}D{i}" + (f"@{p}" if p >= 0 else "")
            for s, la, h, p, i in rows
        ]

    def _columns(self) -> dict[str, list[Any]]:
        return {name: self.flat(name) for name in COLUMNS}

    @staticmethod
    def _source_text(words: Words | None, prompt: int, source: int) -> str:
        token = words.source(prompt, source) if words else ""
        return "" if source < 0 else f"{visible(token)} @{source}".strip()


def _of_prompt(words: "Callable[[Neurons], Words]", prompt: int, neurons: Neurons) -> Words:
    """The words of one prompt's neurons."""
    found = words(neurons)
    return replace(found, sources=found.sources[prompt:][:1])


def _same(words: Words, _: Neurons) -> Words:
    return words
