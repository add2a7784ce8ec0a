"""A cache, a target and a position, checked once: what every score of one prediction is computed from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model import additive_checks
from tl_neuron_attr.model.cache_checks import require_sites
from tl_neuron_attr.model.positions import Pos, Positions
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.model.within import within
from tl_neuron_attr.numerics.answer_sums import AnswerSums
from tl_neuron_attr.numerics.increase import MAX_BYTES, Increase, mean_unembeddings
from tl_neuron_attr.numerics.kept_scores import KeptScores
from tl_neuron_attr.numerics.readout import Readout
from tl_neuron_attr.numerics.sublayer import SITES, Site, Sublayer
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.token_text import text_of


class Scoring(TypedDict, total=False):
    """What a score is of, beside cache and target: the keywords of every function that takes a cache and a target.

    Attributes:
        pos: The position scored, one for all prompts or one each; by default the last real one of each prompt.
        contrast: If given, scores are of ``log p(target) - log p(contrast)``.
        model: The model that made the cache; ``cache.model`` by default.
        final_bias: False leaves the final norm's bias out of the base, as the authors' GPT-2 notebook does.
    """

    pos: Pos
    contrast: Target | None
    model: Any
    final_bias: bool


@dataclass(frozen=True, eq=False, repr=False)
class ScoredCache:
    """A checked cache and what is scored in it, made by :func:`tl_neuron_attr.scored`.

    The distributions its sublayers started from are read out when they are first needed, all of a call's in one pass
    over ``W_U``, and kept if they fit in ``max_bytes``.

    Attributes:
        stream: The cache's stream.
        places: The positions scored: one per prompt, or one per token of an answer.
        readout: The readout frozen there.
        target: The token followed at each place.
        contrast: The token it is compared with, if any.
        max_bytes: A cap on what is kept.
        sums: How the scores of an answer's tokens add up; None where each place is a result of its own.
        batched: Whether results have a batch dimension.
    """

    stream: Stream
    places: Positions
    readout: Readout
    target: Int[Tensor, "place"]
    contrast: Int[Tensor, "place"] | None
    max_bytes: int = MAX_BYTES
    sums: AnswerSums | None = None
    batched: bool = True
    _increases: dict[tuple[Site, int], Increase] = field(default_factory=dict, init=False)
    _final: list[Increase] = field(default_factory=list, init=False)
    _scores: dict[tuple[Site, ...], KeptScores] = field(default_factory=dict, init=False)
    _checked: set[tuple[Site, bool]] = field(default_factory=set, init=False)

    def __repr__(self) -> str:
        """``ScoredCache(2 prompts at [6, 4], target [5, 11])``."""
        prompts = plural(len(self), "prompt")
        contrast = "" if self.contrast is None else f", contrast {self.contrast.tolist()}"
        return f"ScoredCache({prompts} at {self.places.pos.tolist()}, target {self.target.tolist()}{contrast})"

    def __len__(self) -> int:
        """How many results there are: one per prompt."""
        return len(self.places) if self.sums is None else len(self.sums)

    @typechecked
    def __getitem__(self, result: int) -> "ScoredCache":
        """Return what is scored for one prompt, or for one token of :attr:`per_token`: a batch of one.

        Raises:
            IndexError: If there is no such prompt or token.
        """
        if not -len(self) <= result < len(self):
            raise IndexError(f"result must lie between {-len(self)} and {len(self) - 1}, got {result}")
        return self.select(torch.tensor([result % len(self)], device=self.target.device))

    @property
    def result_of_place(self) -> Int[Tensor, "place"]:
        """The result that each place counts for."""
        own = torch.arange(len(self.places), device=self.target.device)
        return own if self.sums is None else self.sums.result_of_place

    @property
    def followed(self) -> list[str]:
        """What is followed for each result, as text; several right answers side by side, contrasts left out."""
        texts: list[list[str]] = [[] for _ in range(len(self))]
        answers = torch.arange(len(self.places)) if self.sums is None else self.sums.answer.cpu()
        for answer in answers.unique().tolist():
            first = int((answers == answer).nonzero()[0])
            if self.sums is None or int(self.sums.sign_of_place[first]) > 0:
                tokens = self.target[(answers == answer).to(self.target.device)].tolist()
                texts[int(self.result_of_place[first])].append(text_of(self.stream.model, tokens))
        return [" | ".join(each) for each in texts]

    @property
    def rows(self) -> Int[Tensor, "result"]:
        """The cache's row that each result is of; of several, the one its first answer is in."""
        first = torch.searchsorted(self.result_of_place, torch.arange(len(self), device=self.target.device))
        return self.places.row[first]

    @property
    def token_places(self) -> Int[Tensor, "result token"] | None:
        """The places that scores are shared out to: of each token, -1 behind the last; None where they cannot be.

        Several right answers of one token each are followed at one place; their score is no sum otherwise.
        """
        if self.additive:
            return torch.nn.utils.rnn.pad_sequence(
                [(self.result_of_place == r).nonzero()[:, 0] for r in range(len(self))],
                batch_first=True,
                padding_value=-1,
            )
        first = torch.searchsorted(self.result_of_place, torch.arange(len(self), device=self.target.device))
        of_place = first[self.result_of_place]
        alike = (self.places.row[of_place] == self.places.row) & (self.places.pos[of_place] == self.places.pos)
        return first[:, None] if bool(alike.all()) else None

    @property
    def per_token(self) -> "ScoredCache":
        """Each token of the answers as a result of its own: a batch of one row per token; the rows sum to the whole.

        Raises:
            ValueError: If several answers are followed, whose scores are no sum over tokens, or a contrast of answers.

        Examples:
            >>> import tl_neuron_attr as tna
            >>> both = tna.answer(tna.demo.load(), "Tim Duncan plays the sport of", " basketball .")
            >>> layers = tna.attribute_layers(both.per_token)
            >>> bool(torch.allclose(layers.mlp.sum(0), tna.attribute_layers(both).mlp, atol=1e-5))
            True
        """
        if self.sums is not None and len(self.sums) < len(self.sums.result):
            raise ValueError("per_token is of one answer per prompt: this one follows several, or one against another")
        return self._of_places(torch.arange(len(self.places), device=self.target.device))

    def require(self, sites: Sequence[Site], *, reads: bool = False) -> None:
        """Check, once, that the cache has what ``sites`` need; with ``reads``, the norms in front of them too.

        Each time, that the model still reads its final stream out as it did: what is kept is of the weights of then.

        Raises:
            ValueError: Naming the missing hooks, or the layers without neurons, or the weights that were changed.
        """
        if (self._increases or self._final or self._scores) and self.stream.has("unembed.hook_out"):
            additive_checks.require_logits(self.stream, self.stream.readout(self.places), self.places)
        new: tuple[Site, ...] = tuple(site for site in SITES if site in sites and (site, reads) not in self._checked)
        if new:
            require_sites(self.stream, new, reads=reads)
            self.note_checked(new, reads=reads)

    def note_checked(self, sites: Sequence[Site], *, reads: bool = False) -> None:
        """Record that the cache has what ``sites`` need, so that :meth:`require` need not look again."""
        self._checked.update((site, reads) for site in sites)

    def increases(self, sites: Sequence[Site], layers: Sequence[int] | None = None) -> list[Increase]:
        """Return scores of what is added to each stream that a sublayer read, in the order of the stream.

        Those of one call are read out together, when the first of them is needed.
        """
        return [self.increase(site, layer) for layer in self._named(layers) for site in SITES if site in sites]

    def increase(self, site: Site, layer: int) -> Increase:
        """Return scores of what is added to the stream that one sublayer read."""
        if (site, layer) in self._increases:
            return self._increases[site, layer]
        base = self.stream.base(site, layer, self.places)
        increase = Increase(self.readout, base, self.target, self.contrast)
        if self.keeps:
            self._increases[site, layer] = increase
        return increase

    def final(self) -> Increase:
        """Return scores of what is added to the final stream."""
        if self._final:
            return self._final[0]
        increase = Increase(self.readout, self.stream.final(self.places), self.target, self.contrast)
        if self.keeps:
            self._final.append(increase)
        return increase

    def read_at_once(self, max_bytes: int) -> None:
        """Read every base stream out, and find its mean unembedding vector, in one pass: what several calls will need.

        Nothing is read where it would not be kept, or not be needed: searches need no mean where there is a contrast,
        whose scores are linear, or where the model caps its logits.
        """
        kept = self._fitting(min(max_bytes, self.max_bytes)) >= len(self.places)
        if kept and self.contrast is None and self.readout.transform is None:
            mean_unembeddings([*self.increases(SITES), self.final()])

    def kept(self, sites: tuple[Site, ...]) -> KeptScores:
        """Return the exact scores that searches of the neurons of ``sites`` have found here, to be added to."""
        return self._scores.setdefault(sites, {})

    def groups(self, max_bytes: int, *, whole: bool = False, sublayers: int | None = None) -> Iterator["ScoredCache"]:
        """Yield the places in groups whose base distributions fit in ``max_bytes``; one place at the least.

        With ``whole``, all places of a result stay together, one result at the least. Where only some ``sublayers`` are
        scored, so many as given, more places fit.
        """
        count = len(self) if whole else len(self.places)
        kept = self._fitting(self.max_bytes) >= len(self.places)
        fitting = self._fitting(max_bytes, sublayers)
        if (kept and fitting >= len(self.places)) or count == 1:
            yield self
            return
        each = -(-len(self.places) // count)
        for rows in torch.arange(count, device=self.target.device).split(max(1, fitting // each)):
            yield self.select(rows) if whole else self._of_places(rows)

    def groups_of(self, size: int) -> Iterator["ScoredCache"]:
        """Yield the places, so many at a time, each a result of its own."""
        for places in torch.arange(len(self.places), device=self.target.device).split(size):
            yield self._of_places(places)

    def select(self, results: Int[Tensor, "n"]) -> "ScoredCache":
        """Return what is scored for some results, given in ascending order."""
        if self.sums is None:
            return self._of_places(results)
        places, sums = self.sums.select(results)
        return replace(self._of_places(places), sums=sums)

    def _of_places(self, places: Int[Tensor, "n"]) -> "ScoredCache":
        """Return some places, each a result of its own; base distributions of all places are shared."""
        contrast = None if self.contrast is None else self.contrast[places]
        chosen = replace(
            self,
            places=self.places.select(places),
            readout=self.readout.select(places),
            target=self.target[places],
            contrast=contrast,
            sums=None,
            batched=True,
        )
        if len(places) == len(self.places):
            chosen._increases.update(self._increases)
            chosen._final.extend(self._final)
            chosen._checked.update(self._checked)
        return chosen

    def checked_sublayers(self, sites: Sequence[Site], layers: Sequence[int] | None = None) -> Iterator[Sublayer]:
        """Yield sublayers whose neurons are known to sum to what the sublayer wrote (paper 1, Eq. 5 and 7).

        Raises:
            IndexError: If a layer is out of range or named twice.
            ValueError: If a sublayer's neurons do not add up.
        """
        for layer in self._named(layers):
            for site in sites:
                sublayer = self.stream.sublayer(site, layer, self.places)
                along = sublayer.out / sublayer.out.norm(dim=-1, keepdim=True).clamp_min(additive_checks.TINY)
                additive_checks.require_neurons_add_up(self.stream, sublayer, along, sublayer.project_onto(along))
                yield sublayer

    @torch.no_grad()
    def log_probs(self) -> Float[Tensor, "place d_vocab"]:
        """Return the model's own log-probabilities at each place scored, in nats (paper 1, Eq. 2)."""
        return self.final().log_p()

    def without_final_bias(self) -> "ScoredCache":
        """Return the same with the final norm's bias left out of the base, as the authors' GPT-2 notebook does."""
        return replace(self, readout=replace(self.readout, norm_bias=torch.zeros_like(self.readout.norm_bias)))

    @property
    @torch.no_grad()
    def log_prob(self) -> Float[Tensor, "*b"]:
        """The model's own log-probability of what is followed, in nats; of a contrast, the difference."""
        final = self.final()
        own = final.target_log_p()
        if final.contrast is not None:
            own = own - replace(final, target=final.contrast).target_log_p()
        added = (own if self.sums is None else self.sums.log_probs(own)).to(self.stream.dtype)
        return added if self.batched else added[0]

    @property
    def additive(self) -> bool:
        """Whether the scores of results are sums over places; not so where there are several right answers."""
        return self.sums is None or self.sums.additive

    def finish(
        self, scores: Float[Tensor, "place *n"], base: Float[Tensor, "place *m"] | None = None
    ) -> Float[Tensor, "*b_n"]:
        """Return the scores of results, as the user's cache is shaped: without a batch dimension if it has none.

        Args:
            scores: The scores of places, which add up to those of results.
            base: Each target's log-probability in the base streams, with leading axes of ``scores``; only where
                results are not :attr:`additive`.

        Raises:
            ValueError: If a score is not finite, naming the tensor it came from.
        """
        additive_checks.require_finite(self.stream, scores, "the scores")
        if base is not None:
            base = base.reshape(*base.shape, *[1] * (scores.ndim - base.ndim))
        added = scores if self.sums is None else self.sums(scores, base)
        return added if self.batched else added[0]

    def _named(self, layers: Sequence[int] | None) -> Sequence[int]:
        """Return the layers named, each once, or all."""
        wanted = range(self.stream.n_layers) if layers is None else layers
        if not wanted:
            raise ValueError("layers is empty: name at least one, or leave it out for all")
        for layer in wanted:
            within("layers", layer, self.stream.n_layers)
        if len(set(wanted)) < len(wanted):
            raise IndexError(f"layers names a layer twice: {list(wanted)}")
        return wanted

    @property
    def keeps(self) -> bool:
        """Whether base distributions are kept: where they fit."""
        return self._fitting(self.max_bytes) >= len(self.places) or len(self.places) == 1

    def _fitting(self, max_bytes: int, sublayers: int | None = None) -> int:
        """Return how many prompts' base distributions, one per sublayer, take at most half of ``max_bytes``."""
        each = (sublayers or 2 * self.stream.n_layers) * self.readout.d_vocab * self.stream.dtype.itemsize
        return max_bytes // (2 * each)
