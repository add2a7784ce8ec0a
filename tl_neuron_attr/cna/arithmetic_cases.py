"""Cases: token ids and the right next token, made from arithmetic problems as in paper 3, Table 14.

A model that writes numbers digit by digit gives one case per digit: ``15 + 32 =`` -> ``4``, ``15 + 32 = 4`` -> ``7``.
A digit is *memorised* if no carry (of a subtraction: no borrow) comes in from the digits below it, *carried* otherwise
(paper 3, Table 3: "memorize" and "change-one"); of a product or quotient the last digit counts as memorised, the others
as carried. A number that is one token is carried if any digit of it is.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from string import Formatter
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.number_words import in_words
from tl_neuron_attr.model.batches import Batch, of_tokens
from tl_neuron_attr.model.targets import token_id
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.token_text import quoted

Op = Literal["+", "-", "*", "/"]
CaseKind = Literal["memorised", "carried", ""]

TEMPLATES: dict[Op, tuple[str, ...]] = {
    "+": ("The sum of {a} and {b} is", "Q: What is {a} plus {b}? A:", "{a} plus {b} is", "{a} + {b} ="),
    "-": ("The difference between {a} and {b} is", "Q: What is {a} minus {b}? A:", "{a} minus {b} is", "{a} - {b} ="),
    "*": ("The product of {a} and {b} is", "Q: What is {a} times {b}? A:", "{a} times {b} is", "{a} * {b} ="),
    "/": ("The ratio of {a} and {b} is", "Q: What is {a} divides {b}? A:", "{a} divides {b} is", "{a} / {b} ="),
}
"""The four prompts of each operation (paper 3, Table 14)."""

_APPLY: dict[Op, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


@runtime_checkable
class AnsweredPrompt(Protocol):
    """What :func:`prompt_cases` needs of a prompt, such as those of ``tna.demo``."""

    @property
    def text(self) -> str:
        """Return the words before the answer."""
        ...

    @property
    def answer(self) -> str:
        """Return the answer, one token."""
        ...

    @property
    def kind(self) -> str:
        """Return what the prompt is a case of."""
        ...


@typechecked_fields
@dataclass(frozen=True)
class Problem:
    """``a op b``; a quotient is a whole number."""

    a: int
    op: Op
    b: int

    @property
    def result(self) -> int:
        """Return the answer as a number."""
        return _APPLY[self.op](self.a, self.b)

    @typechecked
    def carries_into(self, place: int) -> bool:
        """Return whether a carry or borrow comes into the digit of ``10 ** place`` (paper 3, Table 3).

        Examples:
            >>> Problem(15, "+", 37).carries_into(1), Problem(15, "+", 32).carries_into(1)
            (True, False)

        Raises:
            ValueError: If ``place`` is below 0.
        """
        if place < 0:
            raise ValueError(f"place must be 0, the ones, or more, got {place}")
        place = min(place, len(str(max(self.a, self.b))) + 1)  # nothing is carried beyond the digits of both
        upper, lower = (n % 10**place for n in (max(self.a, self.b), min(self.a, self.b)))
        if self.op == "-":
            return upper < lower
        return upper + lower >= 10**place if self.op == "+" else place > 0


@typechecked_fields
@dataclass(frozen=True)
class Case:
    """One prediction.

    Attributes:
        tokens: The token ids before it.
        answer: The id of the right next token.
        group: What it is counted with: ``"2D+"`` for an addition of two-digit numbers.
        kind: ``"memorised"``, ``"carried"``, or empty where neither is meant.
        given: How many tokens of the whole answer ``tokens`` ends with: 1 for ``7`` after ``15 + 32 = 4``.
    """

    tokens: tuple[int, ...]
    answer: int
    group: str = ""
    kind: CaseKind = ""
    given: int = 0


Written = Callable[[Problem], tuple[str, str]]
"""How a problem is written: the prompt, and the answer as it follows the prompt."""


@typechecked
def written(template: str = "{a} {op} {b} =", *, words: bool = False, space: str = " ") -> Written:
    """Return a way to write problems by a template with ``{a}``, ``{b}`` and perhaps ``{op}``.

    Args:
        template: The prompt.
        words: Whether the prompt's numbers are words, as in half of the paper's sentences.
        space: What stands between the prompt and the answer.

    Examples:
        >>> written(TEMPLATES["+"][0], words=True)(Problem(15, "+", 32))
        ('The sum of fifteen and thirty-two is', ' 47')
    """
    spoken: Callable[[int], str] = in_words if words else str
    return lambda p: (template.format(a=spoken(p.a), b=spoken(p.b), op=p.op), f"{space}{p.result}")


_plainly = written()


@typechecked
def problems(op: Op, *, digits: int, n: int | None = None, seed: int = 0) -> list[Problem]:
    """Return problems whose operands both have ``digits`` digits (Table 2: 1D, 2D, 3D); no difference is negative.

    Args:
        op: The operation.
        digits: How many digits.
        n: How many, drawn with ``seed``; all by default.
        seed: Of the draw.

    Raises:
        ValueError: If ``digits`` is not between 1 and 3, or ``n`` not between 0 and their number.

    Examples:
        >>> problem = problems("/", digits=2, n=1)[0]
        >>> problem.a % problem.b
        0
    """
    if not 1 <= digits <= 3:
        raise ValueError(f"digits must be between 1 and 3, got {digits}")
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits
    pairs = [(a, b) for a in range(low, high) for b in range(low, high)]
    if op in "-/":
        pairs = [(a, b) for a, b in pairs if a >= b and (op == "-" or (b and a % b == 0))]
    if n is not None and not 0 <= n <= len(pairs):
        raise ValueError(f"n must be between 0 and the {len(pairs)} problems {digits}D{op} there are, got {n}")
    chosen = pairs if n is None else Random(seed).sample(pairs, n)
    return [Problem(a, op, b) for a, b in chosen]


@typechecked
def arithmetic_cases(
    model: Any,
    problems: Sequence[Problem],
    *,
    template: str | None = None,
    shots: Sequence[Problem] = (),
    between: str = "\n",
    written: Written | None = None,
    low_first: bool = False,
    prepend_bos: bool | None = None,
) -> list[Case]:
    """Return the cases of problems, one for each token of each answer that is not blank (paper 3, Table 14).

    Args:
        model: The model, whose tokenizer cuts prompt and answer.
        problems: The problems.
        template: The prompt, with ``{a}``, ``{b}`` and perhaps ``{op}``; ``"{a} {op} {b} ="`` by default. Of a template
            that ends with a space, the answer follows without another.
        shots: Solved problems put in front of each prompt, written in the same way: a model may calculate after a few
            of them and not on the bare prompt.
        between: What stands behind each shot.
        written: How problems are written where a template will not do, such as :func:`written` gives it.
        low_first: Whether the answer is written from the units upwards.
        prepend_bos: As in TransformerLens; the tokenizer's habit by default.

    Raises:
        ValueError: If a prompt's tokens are not the beginning of those of prompt and answer, the answer is not in the
            vocabulary, a problem is among ``shots``, both ``template`` and ``written`` are given, or ``template``
            names anything else or lacks ``{a}`` or ``{b}``.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> model = demo.load()
        >>> options = {"shots": [Problem(2, "+", 2)], "between": " . "}
        >>> case = arithmetic_cases(model, [Problem(15, "+", 37)], **options)[0]
        >>> model.to_string(torch.tensor(case.tokens)), case.group, case.kind
        ('<bos> 2 + 2 = 4 . 15 + 37 =', '2D+', 'carried')
    """
    write = _with_shots(problems, _way(template, written), shots, between)
    return [case for p in problems for case in _of_problem(model, p, write(p), low_first, prepend_bos)]


@typechecked
def prompt_cases(model: Any, prompts: Sequence[AnsweredPrompt]) -> list[Case]:
    """Return the cases of prompts that are answered by one token each; the group is the prompt's kind.

    Examples:
        >>> from tl_neuron_attr import demo
        >>> {case.group for case in prompt_cases(demo.load(), demo.facts("sport")[:3])}
        {'sport'}
    """
    return [
        Case(tuple(prompt_ids(model, p.text).tolist()), token_id(model, p.answer, "answer"), p.kind) for p in prompts
    ]


def case_batches(cases: Sequence[Case], *, batch_size: int) -> Iterator[Batch]:
    """Yield cases in batches of one length, the shortest first."""
    return of_tokens([torch.tensor(case.tokens) for case in cases], batch_size=batch_size)


def require_cases(cases: Sequence[Case]) -> None:
    """Refuse an empty list.

    Raises:
        ValueError: If it is.
    """
    if not cases:
        raise ValueError("cases is empty: give at least one")


def _way(template: str | None, way: Written | None) -> Written:
    """Return how problems are written.

    Raises:
        ValueError: If there are two ways, or the template cannot be filled in.
    """
    if template is None:
        return way or _plainly
    if way is not None:
        raise ValueError("template and written both say how problems are written: give one of them")
    names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if not {"a", "b"} <= names <= {"a", "b", "op"}:
        raise ValueError(
            f"template must name {{a}}, {{b}} and perhaps {{op}}, and nothing else, got {quoted(template)}"
        )
    return written(template, space="" if template.endswith(" ") else " ")


def _with_shots(problems: Sequence[Problem], way: Written, shots: Sequence[Problem], between: str) -> Written:
    """Return the same way of writing behind solved problems.

    Raises:
        ValueError: If a problem is among them.
    """
    if known := [i for i, problem in enumerate(problems) if problem in shots]:
        raise ValueError(
            f"problems[{known[0]}], {problems[known[0]]}, is among the shots, which give its answer away: leave it out "
            "of one of them"
        )
    before = "".join("".join(way(shot)) + between for shot in shots)
    return lambda problem: (before + way(problem)[0], way(problem)[1])


def _of_problem(
    model: Any, problem: Problem, texts: tuple[str, str], low_first: bool, prepend_bos: bool | None
) -> list[Case]:
    prompt, answer = texts
    before, whole = (prompt_ids(model, text, prepend_bos=prepend_bos).tolist() for text in (prompt, prompt + answer))
    if whole[: len(before)] != before:
        raise ValueError(
            f"the tokens of {prompt!r} are not the beginning of those of {prompt + answer!r}: write the answer with "
            "another space"
        )
    pieces = [model.tokenizer.decode([token]).strip() for token in whole[len(before) :]]
    if "".join(pieces) != answer.replace(" ", ""):
        raise ValueError(f"the answer {answer!r} to {prompt!r} is not in the vocabulary: it reads as {pieces}")
    digits = max(len(str(problem.a)), len(str(problem.b)))
    return [
        Case(
            tuple(whole[: len(before) + i]),
            whole[len(before) + i],
            f"{digits}D{problem.op}",
            _kind(problem, pieces, i, low_first),
            i,
        )
        for i, piece in enumerate(pieces)
        if piece
    ]


def _kind(problem: Problem, pieces: list[str], i: int, low_first: bool) -> CaseKind:
    """Return whether a carry comes into any of the digits of piece ``i``."""
    if not pieces[i].isdigit():
        return ""
    below = sum(map(len, pieces[:i] if low_first else pieces[i + 1 :]))
    places = range(below, below + len(pieces[i]))
    if problem.op in "*/":
        return "memorised" if 0 in places else "carried"
    return "carried" if any(problem.carries_into(place) for place in places) else "memorised"
