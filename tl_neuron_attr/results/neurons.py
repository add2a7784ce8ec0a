"""Neurons found: pure data, printed as tables, turned into data frames, saved without pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer
from tl_neuron_attr.results import neuron_file
from tl_neuron_attr.results.equality import same
from tl_neuron_attr.results.neuron_columns import COLUMNS, MEASURED, OF_TOKENS, columns_at, joined_columns
from tl_neuron_attr.results.neuron_contexts import strongest_contexts
from tl_neuron_attr.results.neuron_table import neuron_frame, neuron_keys, neuron_labels, neuron_table, neuron_tokens
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Neurons(PrintsAsTable):
    """Neurons in descending order of score (ascending for the most suppressing ones), ties by index.

    Pure data: copied, pickled, sent to a worker, printed and saved without a model. Two are equal if they are the same
    neurons with the same coefficients, scores and text. ``neurons[i]`` is prompt ``i`` of a batch, ``neurons[a:b]`` a
    batch of some prompts, and iterating goes over prompts; of a single prompt take :meth:`top`. Tensors have a batch
    dimension if the cache had one, for a single prompt too; what is read (labels, tables) is then that prompt's.

    Attributes:
        site: 0 for attention, 1 for MLP (:data:`SITES`).
        layer: The block.
        head: The head of an attention neuron; -1 for an MLP neuron.
        source: The position an attention neuron read; -1 for an MLP neuron.
        index: The dimension of the head, or the neuron of the MLP.
        coefficient: How far the neuron moved along its direction: ``pattern * v``, or the post-activation.
        score: In nats.
        evaluated: How many neurons were scored exactly to certify the result, where it came from a search.
        text: The tokens the neurons read and promote, where they are known.
        effect: How much log-probability taking the neuron out alone really costs, in nats, where it was measured.
        target_logit: What the neuron adds to the target's logit, where it was asked for
            (:func:`~tl_neuron_attr.target_ranks`).
        target_rank: The target's place among all tokens by what the neuron adds to their logits, 1 for the highest.
        token_score: Of an answer of several tokens, what each adds to the score; 0 behind the last of a shorter answer.
        token_coefficient: The coefficient at the position before each token; NaN behind the last.
        expert: The expert of an MLP neuron in a mixture, the shared expert behind the routed ones; -1 for any other
            neuron; None where no layer is a mixture. ``index`` counts through all experts of the layer all the same.
        expert_index: The neuron's number within its expert; -1 and None as ``expert``.
    """

    site: Int[Tensor, "*b k"]
    layer: Int[Tensor, "*b k"]
    head: Int[Tensor, "*b k"]
    source: Int[Tensor, "*b k"]
    index: Int[Tensor, "*b k"]
    coefficient: Float[Tensor, "*b k"]
    score: Float[Tensor, "*b k"]
    evaluated: Int[Tensor, "*b"] | None = None
    text: NeuronText | None = None
    effect: Float[Tensor, "*b k"] | None = None
    target_logit: Float[Tensor, "*b k"] | None = None
    target_rank: Int[Tensor, "*b k"] | None = None
    token_score: Float[Tensor, "*b token k"] | None = None
    token_coefficient: Float[Tensor, "*b token k"] | None = None
    expert: Int[Tensor, "*b k"] | None = None
    expert_index: Int[Tensor, "*b k"] | None = None

    @classmethod
    def of_mlp(
        cls,
        layer: Int[Tensor, "*b k"],
        index: Int[Tensor, "*b k"],
        *,
        coefficient: Float[Tensor, "*b k"],
        score: Float[Tensor, "*b k"],
        text: NeuronText | None = None,
    ) -> "Neurons":
        """Return MLP neurons, given by layer and index.

        Examples:
            >>> one = torch.ones(1)
            >>> Neurons.of_mlp(torch.tensor([23]), torch.tensor([6740]), coefficient=one, score=one).labels
            ['L23N6740']
        """
        none = torch.full_like(layer, -1)
        site = torch.full_like(layer, SITES.index("mlp"))
        return cls(site, layer, none, none, index, coefficient, score, text=text)

    @classmethod
    def of_sublayers(
        cls,
        sublayers: Sequence[Sublayer],
        flat: Int[Tensor, "batch k"],
        *,
        score: Float[Tensor, "batch k"],
        coefficient: Float[Tensor, "batch k"] | None = None,
        evaluated: Int[Tensor, "batch"] | None = None,
    ) -> "Neurons":
        """Return the neurons at some places of a list of sublayers; their coefficients there unless given.

        Neurons, each with its sources, are numbered through the list: the first sublayer's neuron 0 at source 0, at
        source 1, ..., its neuron 1, ..., then the next sublayer's (:mod:`tl_neuron_attr.numerics.flat_index`).
        """
        return cls(**columns_at(sublayers, flat, coefficient=coefficient), score=score, evaluated=evaluated)

    @classmethod
    def joined(cls, groups: "Sequence[Neurons]") -> "Neurons":
        """Return the neurons of several groups of prompts as one batch; as many of each prompt as all have."""
        if len(groups) == 1:
            return groups[0]
        evaluated = [group.evaluated for group in groups if group.evaluated is not None]
        text = [group.text for group in groups if group.text is not None]
        return cls(
            **joined_columns(groups, k=min(len(group) for group in groups)),
            evaluated=torch.cat(evaluated) if evaluated else None,
            text=NeuronText.joined(text) if text else None,
        )

    def __len__(self) -> int:
        return self.score.shape[-1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Neurons):
            return NotImplemented
        columns = self.columns
        if columns != other.columns:
            return False
        columns += self._of_tokens()
        if other._of_tokens() != self._of_tokens():
            return False
        mine, theirs = ([getattr(n, name) for name in columns] for n in (self, other))
        return same(mine, theirs) and self._known_text() == other._known_text()

    @property
    def batched(self) -> bool:
        """Whether the neurons are of a batch of prompts."""
        return self.score.ndim == 2

    @property
    def labels(self) -> list[str] | list[list[str]]:
        """``L23N6740`` (an MLP neuron), ``L3E17N204`` (of expert 17), ``L21H0D79@3`` (dimension 79, head 0, source 3).

        One list, or one per prompt where there are several: text of a single prompt is never nested, whether or not its
        cache had a batch dimension.
        """
        names, k = self.flat_labels, len(self)
        several = self.batched and len(self.score) > 1
        return [names[i * k : (i + 1) * k] for i in range(len(self.score))] if several else names

    @property
    def per_token(self) -> "Neurons":
        """The neurons at each token of the answer they were found for: a batch of one row per token, in one order.

        The rows' scores sum to those of the whole answer.

        Raises:
            ValueError: If they were not found for an answer, or for a set of answers of several tokens.
            TypeError: If they are of several prompts.
        """
        if self.token_score is None or self.token_coefficient is None:
            raise ValueError("per_token: these neurons were not found for an answer; see tna.answer")
        if self.batched:
            raise TypeError(f"these neurons are of {len(self.score)} prompts; take one prompt's: neurons[i].per_token")
        mine = (~self.token_coefficient.isnan()).any(-1)
        places = {name: getattr(self, name).expand(int(mine.sum()), -1) for name in neuron_file.PLACE}
        text = (
            None
            if self.text is None
            else replace(self.text, sources=self.text.sources * int(mine.sum()), followed=None)
        )
        return Neurons(**places, coefficient=self.token_coefficient[mine], score=self.token_score[mine], text=text)

    @typechecked
    def top(self, k: int) -> "Neurons":
        """Return the first ``k``.

        Raises:
            ValueError: If ``k`` is not between 1 and the number of neurons.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be between 1 and {len(self)}, got {k}")
        return self._select((..., slice(k)))

    @typechecked
    def pick(self, places: Sequence[int]) -> "Neurons":
        """Return the neurons at some places of the ranking, counted from 0.

        Raises:
            IndexError: If there is no such place.
        """
        outside = [place for place in places if not 0 <= place < len(self)]
        if outside:
            raise IndexError(f"places must lie between 0 and {len(self) - 1}, got {outside[0]}")
        return self._select((..., list(places)))

    def __getitem__(self, prompt: Any) -> "Neurons":
        """Return the neurons of one prompt of a batch, or a batch of a slice of prompts.

        Raises:
            TypeError: If these neurons are of a single prompt, or ``prompt`` is neither a number nor a slice.
            IndexError: If there is no such prompt.
        """
        if not self.batched:
            raise TypeError(f"these neurons are of a single prompt, so [{prompt!r}] has no meaning; use top(k) or pick")
        if isinstance(prompt, slice):
            chosen = list(range(len(self.score)))[prompt]
            if not chosen:
                raise IndexError(f"prompts {prompt} are none of the {len(self.score)} prompts")
            text = None if self.text is None else NeuronText.joined([self.text.of_prompt(i) for i in chosen])
            return replace(self._select(chosen), text=text)
        if isinstance(prompt, bool) or not hasattr(prompt, "__index__"):
            raise TypeError(f"prompt must be a number or a slice, got {type(prompt).__name__}")
        at, batch = prompt.__index__(), len(self.score)
        if not -batch <= at < batch:
            raise IndexError(f"prompt must lie between {-batch} and {batch - 1}, got {at}")
        return replace(self._select(at), text=None if self.text is None else self.text.of_prompt(at % batch))

    @property
    def keys(self) -> list[str]:
        """What :class:`NeuronText` knows each neuron by, prompts in a row: its direction and its coefficient's sign."""
        return neuron_keys(self._columns())

    @typechecked
    def table(self, *, readable: bool = False) -> Table:
        """Return one row per neuron: rank, neuron, source token, coefficient, score, promoted tokens.

        Of several prompts, the prompt comes first. With ``readable``, only promoted tokens that are words or begin one
        are shown, and the table says how many were left out; :func:`~tl_neuron_attr.top_tokens` with ``readable`` looks
        further down for as many words.

        Raises:
            ValueError: If ``readable`` is asked of neurons without text.
        """
        if not readable:
            return neuron_table(self._columns(), len(self), self.text)
        text, left_out = self._readable()
        found = neuron_table(self._columns(), len(self), text)
        return replace(found, caption=f"{found.caption}; {left_out} promoted tokens that are no words left out")

    @typechecked
    def to_frame(
        self, *, readable: bool = False, catalogue: "Mapping[str, pd.DataFrame] | None" = None
    ) -> "pd.DataFrame":
        """Return one row per neuron, in order, with everything the table shows.

        Args:
            readable: Keep only promoted tokens that are words or begin one; ``frame.attrs["left_out"]`` counts the
                others.
            catalogue: The tables of a merged :class:`~tl_neuron_attr.sweep.CatalogueTask`: adds ``context``, where in
                its corpus each MLP neuron was strongest with the sign it has here.

        Raises:
            ValueError: If ``catalogue`` is something else, or of another model, or ``readable`` is asked of neurons
                without text.
        """
        text, left_out = self._readable() if readable else (self.text, 0)
        frame = neuron_frame(self._columns(), len(self), text, batched=self.batched)
        if readable:
            frame.attrs["left_out"] = left_out
        return frame if catalogue is None else frame.assign(context=strongest_contexts(frame, catalogue))

    def _readable(self) -> tuple[NeuronText, int]:
        if self.text is None:
            raise ValueError(
                "readable=True needs the tokens that neurons promote, and these have no text: leave it out"
            )
        return self.text.of_keys(self.keys).readable()

    @typechecked
    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header; never a pickle, never half a file.

        What the scores are of goes with them: prompts, targets, contrasts, positions and the model's name
        (``.text.followed``).
        """
        promoted = {} if self.text is None else {key: self.text.of(key) for key in self.keys}
        text = None if self.text is None else replace(self.text, promoted=promoted)
        neuron_file.write(path, {name: getattr(self, name) for name in self._saved()}, text)

    @classmethod
    @typechecked
    def load(cls, path: str | Path) -> "Neurons":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is malformed, naming the field.
        """
        tensors, text = neuron_file.read(path)
        stored: dict[str, Any] = dict(tensors)
        neurons = cls(**stored)
        return neurons if text is None else replace(neurons, text=neuron_file.read_text(path, text, neurons.keys))

    def squeeze(self, *, batched: bool) -> "Neurons":
        """Return them without the batch dimension, unless ``batched``."""
        return self if batched else self[0]

    @typechecked
    def of_site(self, site: Site) -> "Neurons":
        """Return one prompt's neurons of a site, in order.

        Raises:
            TypeError: If the neurons are of several prompts.
        """
        if self.batched and len(self.score) > 1:
            raise TypeError(f"these neurons are of {len(self.score)} prompts; take one prompt's: neurons[i]")
        one = self[0] if self.batched else self
        return one._select((..., one.site == SITES.index(site)))

    @typechecked
    def mlp_indices(self, layer: int) -> Int[Tensor, "n"]:
        """Return one prompt's MLP neurons of a layer, in order: what TransformerLens' ``neuron_basis`` takes.

        Raises:
            TypeError: If the neurons are of several prompts.
            IndexError: If ``layer`` is negative.
        """
        if layer < 0:
            raise IndexError(f"layer must be 0 or more, got {layer}")
        mlp = self.of_site("mlp")
        return mlp.index[[own == layer for own in mlp.layer.tolist()]]

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The ``(layer, head)`` pairs of one prompt's attention neurons, the first found first, none twice.

        Raises:
            TypeError: If the neurons are of several prompts.
        """
        attn = self.of_site("attn")
        return list(dict.fromkeys(zip(attn.flat("layer"), attn.flat("head"), strict=True)))

    def flattened(self) -> "Neurons":
        """Return the neurons of all prompts as those of one, without their text."""
        columns: dict[str, Any] = {name: getattr(self, name).flatten() for name in self.columns}
        return Neurons(**columns)

    def unsqueeze(self) -> "Neurons":
        """Return the neurons as a batch of one prompt."""
        return self._select(None)

    def flat(self, name: str) -> list[Any]:
        """Return a field as a list, prompts in a row."""
        return getattr(self, name).flatten().tolist()

    @property
    def flat_labels(self) -> list[str]:
        """:attr:`labels`, prompts in a row."""
        return neuron_labels(self._columns())

    def _saved(self) -> list[str]:
        return [f.name for f in fields(self) if f.name != "text" and getattr(self, f.name) is not None]

    def _select(self, at: object) -> "Neurons":
        cut: dict[str, Any] = {name: getattr(self, name)[at] for name in (*self.columns, *self._of_tokens())}
        if (at is None or isinstance(at, int | list)) and self.evaluated is not None:
            cut["evaluated"] = self.evaluated[at]
        return replace(self, **cut)

    def _columns(self) -> dict[str, list[Any]]:
        return {name: self.flat(name) for name in self.columns}

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields with a number for every neuron: of those that not all neurons have, the ones that are there."""
        optional = (*MEASURED, *neuron_file.EXPERT)
        return (*COLUMNS, *(name for name in optional if getattr(self, name) is not None))

    def _of_tokens(self) -> tuple[str, ...]:
        """Return the fields with a number for every neuron and token of an answer, where there are any."""
        return tuple(name for name in OF_TOKENS if getattr(self, name) is not None)

    def _known_text(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return what is known of each neuron's text: the token it read, and those it promotes."""
        return neuron_tokens(self._columns(), len(self), self.text)
