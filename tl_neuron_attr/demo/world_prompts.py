"""What the generators of the demo world return."""

from dataclasses import dataclass

from tl_neuron_attr._typechecked import typechecked_fields


@typechecked_fields
@dataclass(frozen=True)
class Prompt:
    """A prompt and the one token that answers it.

    Attributes:
        text: The words before the answer, without ``<bos>`` (the tokenizer adds it).
        answer: The answer, one token of the demo tokenizer.
        kind: A knowledge type, an arithmetic operation, ``"in_context"`` or ``"occupation"``.
        subject: What the prompt is about: a fact's subject, an occupation; empty elsewhere.
        template: The text with ``{}`` where the subject stood; empty elsewhere.
    """

    text: str
    answer: str
    kind: str
    subject: str = ""
    template: str = ""


@typechecked_fields
@dataclass(frozen=True)
class InContextPrompt(Prompt):
    """Demonstrations ``"great movie : foo ."`` and a query ``"awful plot :"``.

    Positions count tokens from 0 with ``<bos>`` at 0; negative indices of an unpadded prompt need no change under
    left padding.

    Attributes:
        labels: The two label words.
        classes: The class each label stands for, e.g. ``("negative", "positive")``.
        sequence: The label index (0 or 1) of each demonstration, in order.
        gold: The label index of the answer; -1 where no answer is right (``answer`` is then ``labels[0]``).
        label_positions: The position of each demonstration's label.
        separator_positions: The position of each demonstration's ``:``, then that of the query.
        query: The words of the query.
    """

    labels: tuple[str, str] = ("", "")
    classes: tuple[str, str] = ("", "")
    sequence: tuple[int, ...] = ()
    gold: int = -1
    label_positions: tuple[int, ...] = ()
    separator_positions: tuple[int, ...] = ()
    query: str = ""


@typechecked_fields
@dataclass(frozen=True)
class OccupationPrompt(Prompt):
    """A sentence about somebody of an occupation, to be continued by ``she`` or ``he``.

    Attributes:
        share: How often the training data continued this occupation by ``she``; ``answer`` is the more frequent.
    """

    share: float = 0.5
