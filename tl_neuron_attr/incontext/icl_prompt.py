"""In-context classification prompts as tokens: the positions of demonstrations, labels and query (paper 2, Figure 1).

    great movie : foo awful plot : bar bad scene :        the right answer is bar

A prompt is a sequence of pieces (a text, the separator, a label, the end), and every piece must begin at a token
boundary of the whole prompt. This is checked by tokenising the text before each boundary, so it holds for any
tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.model.tokens import prompt_ids, text_ids
from tl_neuron_attr.results.token_text import quoted

SEPARATOR, END = " : ", " "
"""The paper's template: ``S0 : bar S1 : foo S2 :``."""


@typechecked_fields
@dataclass(frozen=True)
class IclPrompt:
    """Demonstrations with labels and a query to label. Positions count tokens from 0, including BOS.

    Attributes:
        tokens: The prompt's token ids as the model takes them; the model predicts the label at the last one.
        demonstrations: Each demonstration's text and the index of its label.
        query: The text to label.
        gold: The index of the right label.
        labels: The label words.
        label_ids: The token of each label in this template.
        label_positions: The position of each demonstration's label.
        spans: The tokens of each demonstration's text: ``tokens[start:stop]``.
        query_span: The tokens of the query.
        separator: The text between a demonstration and its label.
        end: The text between a label and the next demonstration.
        classes: The class that each label stands for, if known.
    """

    tokens: tuple[int, ...]
    demonstrations: tuple[tuple[str, int], ...]
    query: str
    gold: int
    labels: tuple[str, ...]
    label_ids: tuple[int, ...]
    label_positions: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    query_span: tuple[int, int]
    separator: str = SEPARATOR
    end: str = END
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse positions, labels and tokens that contradict each other."""
        require_classification(self.demonstrations, self.labels, self.gold)
        twice = [w for w, token in zip(self.labels, self.label_ids, strict=True) if self.label_ids.count(token) > 1]
        if twice:
            raise ValueError(
                f"the labels {', '.join(map(quoted, twice[:8]))} are one token, which no answer tells apart: choose "
                "other label words"
            )
        length = len(self.tokens)
        for i, (position, (_, label)) in enumerate(zip(self.label_positions, self.demonstrations, strict=True)):
            if not 0 <= position < length - 1:
                raise IndexError(
                    f"label_positions[{i}] must lie between 0 and {length - 2}, inside the prompt and before its last "
                    f"token, got {position}"
                )
            if self.tokens[position] != self.label_ids[label]:
                raise ValueError(
                    f"label_positions[{i}] = {position} is on token {self.tokens[position]}, which is not the label "
                    f"{self.labels[label]!r} (token {self.label_ids[label]}): padding, or another position"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sequence(self) -> tuple[int, ...]:
        """Return the label index of each demonstration."""
        return tuple(label for _, label in self.demonstrations)

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the number of demonstrations of each label."""
        return tuple(self.sequence.count(i) for i in range(len(self.labels)))

    @property
    def text(self) -> str:
        """Return the prompt as text."""
        return "".join(_pieces(self.demonstrations, self.query, self.labels, self.separator, self.end))


@typechecked
def icl_prompt(
    model: Any,
    demonstrations: Sequence[tuple[str, str]],
    query: str,
    gold: str,
    *,
    labels: Sequence[str] | None = None,
    separator: str = SEPARATOR,
    end: str = END,
    classes: Sequence[str] = (),
) -> IclPrompt:
    """Return one prompt, made from its texts and label words.

    Args:
        model: The model, whose tokenizer is used.
        demonstrations: Pairs of a text and its label word.
        query: The text to label.
        gold: The right label word.
        labels: The label words in the order that results use; by default in order of appearance.
        separator: The text between a demonstration and its label. Spaces at its end are joined to the label, as most
            tokenizers do, and the prompt ends without them.
        end: The text between a label and the next demonstration.
        classes: The class that each label stands for.

    Raises:
        ValueError: If there is no demonstration or only one label, a label is not one token (naming its tokens), two
            labels are the same token, a piece does not begin at a token boundary, or the prompt does not fit into the
            model's context.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> prompt = icl_prompt(model, [("great movie", "foo"), ("awful plot", "bar")], "lovely song", "foo", end=" . ")
        >>> prompt.text, prompt.label_positions, model.to_string(prompt.tokens[prompt.label_positions[1]])
        ('great movie : foo . awful plot : bar . lovely song :', (4, 9), 'bar')
    """
    words = tuple(dict.fromkeys(word for _, word in demonstrations)) if labels is None else tuple(labels)
    for word in (*(word for _, word in demonstrations), gold):
        if word not in words:
            raise ValueError(f"the label {quoted(word)} is none of ({', '.join(map(quoted, words[:8]))})")
    pairs = tuple((text, words.index(word)) for text, word in demonstrations)
    return tokenised(model, pairs, query, words.index(gold), words, separator, end, tuple(classes))


def rebuilt(
    model: Any,
    prompt: IclPrompt,
    demonstrations: Sequence[tuple[str, int]],
    *,
    query: str | None = None,
    gold: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> IclPrompt:
    """Return the prompt with other demonstrations, another query or other classes."""
    return tokenised(
        model,
        tuple(demonstrations),
        prompt.query if query is None else query,
        prompt.gold if gold is None else gold,
        prompt.labels,
        prompt.separator,
        prompt.end,
        prompt.classes if classes is None else classes,
    )


def tokenised(
    model: Any,
    demonstrations: tuple[tuple[str, int], ...],
    query: str,
    gold: int,
    labels: tuple[str, ...],
    separator: str = SEPARATOR,
    end: str = END,
    classes: tuple[str, ...] = (),
) -> IclPrompt:
    """Return a prompt with its tokens and positions; errors as in :func:`icl_prompt`."""
    require_classification(demonstrations, labels, gold)
    for name, text in [(f"demonstrations[{i}]", text) for i, (text, _) in enumerate(demonstrations)] + [
        ("query", query)
    ]:
        if not text.strip():
            raise ValueError(f"{name} has no text")
    pieces = _pieces(demonstrations, query, labels, separator, end)
    bounds, tokens = _boundaries(model, pieces)
    ids = _label_ids(model, "".join(pieces), labels, separator)
    of_texts, of_labels = list(range(0, len(pieces) - 2, 4)), list(range(2, len(pieces) - 2, 4))
    for at, (_, label) in zip(of_labels, demonstrations, strict=True):
        found = tokens[bounds[at] : bounds[at + 1]]
        if found != [ids[label]]:
            _refuse_label(model, labels[label], found)
    return IclPrompt(
        tokens=tuple(tokens),
        demonstrations=demonstrations,
        query=query,
        gold=gold,
        labels=labels,
        label_ids=ids,
        label_positions=tuple(bounds[at] for at in of_labels),
        spans=tuple((bounds[at], bounds[at + 1]) for at in of_texts),
        query_span=(bounds[-3], bounds[-2]),
        separator=separator,
        end=end,
        classes=classes,
    )


def require_classification(demonstrations: Sequence[tuple[str, int]], labels: Sequence[str], gold: int) -> None:
    """Check that there are two labels or more, demonstrations of two labels or more, and a right label.

    Raises:
        ValueError: If one of them is missing.
    """
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be at least two different words, got {tuple(labels)}")
    if not demonstrations:
        raise ValueError("demonstrations is empty: an in-context prompt needs demonstrations of at least two labels")
    shown = {label for _, label in demonstrations}
    if len(shown) < 2:
        raise ValueError(
            f"every demonstration has the label {labels[min(shown)]!r}: give demonstrations of at least two labels"
        )
    if not 0 <= gold < len(labels):
        raise ValueError(f"gold must be the index of a label, 0 to {len(labels) - 1}, got {gold}")


def _pieces(
    demonstrations: Sequence[tuple[str, int]], query: str, labels: Sequence[str], separator: str, end: str
) -> list[str]:
    """Return text, separator, label and end of each demonstration, then the query and the separator.

    Spaces at the end of a piece are moved to the front of the next one.
    """
    cut, before_text = end.rstrip(" "), end[len(end.rstrip(" ")) :]
    colon, before_label = separator.rstrip(" "), separator[len(separator.rstrip(" ")) :]
    pieces: list[str] = []
    for i, (text, label) in enumerate(demonstrations):
        pieces += [(before_text if i else "") + text, colon, before_label + labels[label], cut]
    return [*pieces, before_text + query, colon]


def _boundaries(model: Any, pieces: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the position at which each piece begins, then that at which the last one ends; and all tokens.

    Raises:
        ValueError: If a piece does not begin at a token boundary, or the prompt is too long.
    """
    whole = "".join(pieces)
    tokens = prompt_ids(model, whole).tolist()
    encoded = _encoded(model, ["", *accumulate(pieces)])
    bos = len(tokens) - len(encoded[-1])
    for i, before in enumerate(encoded):
        if tokens[bos : bos + len(before)] != before:
            piece = next((piece for piece in pieces[i:] if piece), "")
            raise ValueError(
                f"the tokenizer joins {quoted(piece)} to what stands before it: choose a separator and an end that "
                "begin at token boundaries, or texts without spaces at their ends"
            )
    return [bos + len(before) for before in encoded], tokens


def _label_ids(model: Any, text: str, labels: Sequence[str], separator: str) -> tuple[int, ...]:
    """Return the token of each label after the prompt."""
    space = separator[len(separator.rstrip(" ")) :]
    before, *continued = _encoded(model, [text, *(f"{text}{space}{label}" for label in labels)])
    for label, after in zip(labels, continued, strict=True):
        added = after[len(before) :]
        if after[: len(before)] != before or len(added) != 1 or added[0] == model.tokenizer.unk_token_id:
            _refuse_label(model, label, added)
    return tuple(after[-1] for after in continued)


def _refuse_label(model: Any, label: str, found: Sequence[int]) -> None:
    tokens = [model.tokenizer.decode([token]) for token in found[:8]] + ["..."] * (len(found) > 8)
    raise ValueError(
        f"the label {quoted(label)} must be one token of the vocabulary after the separator, it is {tokens}: choose "
        "another label word or separator"
    )


def _encoded(model: Any, texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts, without BOS."""
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer: set model.tokenizer, prompts are made from text")
    return [text_ids(model, text, "a text") for text in texts]
