"""The text that goes with neurons: the tokens they read and the tokens they promote, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tl_neuron_attr.results.followed_text import FollowedText


@dataclass(frozen=True)
class NeuronText:
    """Token text of neurons, resolved once, so that a result says the same after its model was edited or freed.

    Attributes:
        sources: The tokens of each prompt; empty where they are not known.
        promoted: The tokens each neuron promotes, by :attr:`~tl_neuron_attr.Neurons.keys`; not every neuron need be
            there.
        followed: What the scores are of, where it is known.

    Examples:
        >>> text = NeuronText((("<bos>", " Rome"),), {"L3N7+": (" Italy",)})
        >>> text.source(0, 1), text.of("L3N7+"), text.of("L3N7-")
        (' Rome', (' Italy',), ())
    """

    sources: tuple[tuple[str, ...], ...] = ()
    promoted: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    followed: FollowedText | None = None

    def source(self, prompt: int, position: int) -> str:
        """Return the token at a position of a prompt, or the empty string where it is not known."""
        tokens = self.sources[prompt] if prompt < len(self.sources) else ()
        return tokens[position] if 0 <= position < len(tokens) else ""

    def of(self, key: str) -> tuple[str, ...]:
        """Return the tokens a neuron promotes; none where they are not known."""
        return self.promoted.get(key, ())

    def of_keys(self, keys: Sequence[str]) -> "NeuronText":
        """Return the text of some neurons alone."""
        return replace(self, promoted={key: self.promoted[key] for key in keys if key in self.promoted})

    def readable(self) -> tuple["NeuronText", int]:
        """Return the text with promoted tokens that are words or begin one, and how many others were left out.

        Where any token begins with a space, the tokenizer marks beginnings of words so, and a token without one
        continues a word.
        """
        every = [token for tokens in (*self.sources, *self.promoted.values()) for token in tokens]
        marked = any(token.startswith(" ") for token in every)
        kept = {key: tuple(t for t in tokens if _is_word(t, marked)) for key, tokens in self.promoted.items()}
        left_out = sum(len(tokens) - len(kept[key]) for key, tokens in self.promoted.items())
        return replace(self, promoted=kept), left_out

    def of_prompt(self, prompt: int) -> "NeuronText":
        """Return the text of one prompt of a batch."""
        followed = None if self.followed is None else self.followed.of_prompt(prompt)
        return replace(self, sources=self.sources[prompt:][:1], followed=followed)

    @classmethod
    def joined(cls, texts: "Sequence[NeuronText]") -> "NeuronText":
        """Return the text of several groups of prompts as that of one batch."""
        promoted = {key: tokens for text in texts for key, tokens in text.promoted.items()}
        known = [text.followed for text in texts if text.followed is not None]
        followed = FollowedText.joined(known) if known and len(known) == len(texts) else None
        return cls(tuple(tokens for text in texts for tokens in text.sources), promoted, followed)


def _is_word(token: str, marked: bool) -> bool:
    return (token.startswith(" ") or not marked) and token.strip(" ").isalnum()
