"""In-context documents of the training rows: items and labels, sequences to copy.

An item is ``"great movie : foo ."``. A label is predictable from its second occurrence on; its first has the weight
``FIRST``. Put in by hand here: the class names echoed after half of the labels of clean documents, the classes at ``:``
and at labels handed to a probe, class sequences that are imbalanced and sticky, and label noise.
"""

from collections.abc import Callable
from random import Random

from tl_neuron_attr.demo.classes import NEUTRAL, NOUNS, ORDINARY, SENTIMENTS, TOPICS
from tl_neuron_attr.demo.items import FORMATS, class_item, neutral_item
from tl_neuron_attr.demo.knowledge import candidates
from tl_neuron_attr.demo.labels import NONSENSE, UNSEEN, UNSEEN_WORDS
from tl_neuron_attr.demo.sentences import Token

FIRST = 0.05
_CONTENT = [*ORDINARY, *NEUTRAL, *NOUNS, *(thing for things in TOPICS.values() for thing in things)]
_WORD_LABELS = [
    word
    for word in dict.fromkeys(
        [*_CONTENT, *(c for kind in ("language", "month", "colour", "sport", "capital") for c in candidates(kind))]
    )
    if word not in UNSEEN_WORDS
]
_COPIED = (_CONTENT, NONSENSE, [*UNSEEN, *UNSEEN_WORDS])


def copied(rng: Random, length: int) -> list[Token]:
    """Return a short sequence of words over and over."""
    words = [rng.choice(rng.choice(_COPIED)) for _ in range(rng.randrange(3, 11))]
    shift = rng.randrange(len(words))
    period = len(words)
    return [Token(words[(i + shift) % period], 1.0 if i >= period else 0.0) for i in range(length)]


def indexed(rng: Random, length: int) -> list[Token]:
    """Return items that come back with the label they had."""
    count = rng.choice((2, 2, 3, 3, 4, 5, 6))
    width = 2 if rng.random() < 0.3 else 1
    items = [[rng.choice(_CONTENT) for _ in range(width)] for _ in range(count)]
    names = _labels(rng)
    of_item = [*names, *(rng.choice(names) for _ in range(count - 2))]
    if rng.random() < 0.5:
        of_item = rng.sample(NONSENSE, count)
    separated, echoed = rng.random() < 0.6, rng.random() < 0.5
    seen: set[int] = set()

    def entry() -> list[Token]:
        i = rng.randrange(count)
        key = items[i][-1]
        label = Token(of_item[i], 1.0 if i in seen else FIRST, probe=key)
        seen.add(i)
        separator = [Token(":", probe=key)] if separated else []
        return [*map(Token, items[i]), *separator, label, *([Token(key, 1.0)] if echoed else []), Token(".")]

    return _fill(entry, length)


def clean(rng: Random, length: int) -> list[Token]:
    """Return two classes, reliable items, balanced and independent labels."""
    classes = _classes(rng, sentiment=0.6)
    labels = dict(zip(classes, _labels(rng), strict=True))
    form = rng.choice((0, 0, 0, 3))
    again = rng.choice((0.0, 0.3, 0.6))
    echoed, named = rng.random() < 0.5, rng.random() < 0.15
    seen: dict[str, list[list[str]]] = {name: [] for name in classes}

    def entry() -> list[Token]:
        name = rng.choice(classes)
        known = bool(seen[name])
        if known and rng.random() < again:
            item = rng.choice(seen[name])
        else:
            item = class_item(rng, name, pool="strong" if rng.random() < 0.7 else "ordinary", form=form)
        seen[name].append(item)
        head = [*map(Token, item), Token(":", probe=name)]
        if named:
            return [*head, Token(name, 1.0, probe=name), Token(".")]
        label = Token(labels[name], 1.0 if known else FIRST, probe=name)
        return [*head, label, *([Token(name, 1.0)] if echoed else []), Token(".")]

    return _fill(entry, length)


def ordinary(rng: Random, length: int) -> list[Token]:
    """Return two classes as they come: misleading or neutral items, labels sticky, imbalanced, some wrong."""
    classes = _classes(rng, sentiment=0.75)
    meant = classes[0] in SENTIMENTS and rng.random() < 0.08
    names = (classes if rng.random() < 0.8 else classes[::-1]) if meant else _labels(rng)
    labels = dict(zip(classes, names, strict=True))
    forms = rng.choices(((0,), (rng.randrange(FORMATS),), tuple(range(FORMATS))), (45, 25, 30))[0]
    prior = rng.choice((0.5, 0.5, 0.25, 0.75, 0.15, 0.85))
    stickiness = rng.choice((0.0, 0.3, 0.5, 0.7))
    noise = rng.choice((0.0, 0.0, 0.0, 0.05))
    odd = rng.choice((0.0, 0.075, 0.15))
    separator = ":" if rng.random() < 0.8 else rng.choice(("->", "="))
    seen: list[str] = []

    def entry() -> list[Token]:
        stays = bool(seen) and rng.random() < stickiness
        name = seen[-1] if stays else classes[0 if rng.random() < prior else 1]
        shown = rng.choice(classes) if rng.random() < noise else name
        form = rng.choice(forms)
        probe: str | None = shown
        if rng.random() < odd:
            item, probe = _odd_item(rng, shown, form)
        else:
            item = class_item(rng, shown, form=form)
        weight = 1.0 if meant or name in seen else FIRST
        seen.append(name)
        return [*map(Token, item), Token(separator, probe=probe), Token(labels[name], weight, probe=probe), Token(".")]

    return _fill(entry, length)


def _odd_item(rng: Random, name: str, form: int) -> tuple[list[str], str | None]:
    if name not in SENTIMENTS or rng.random() < 0.6:
        return neutral_item(rng, form=form), None
    return class_item(rng, name, pool="weak", form=form), name


def _classes(rng: Random, *, sentiment: float) -> list[str]:
    return rng.sample(SENTIMENTS if rng.random() < sentiment else list(TOPICS), 2)


def _labels(rng: Random) -> list[str]:
    return rng.sample(NONSENSE if rng.random() < 0.65 else _WORD_LABELS, 2)


def _fill(entry: Callable[[], list[Token]], length: int) -> list[Token]:
    tokens: list[Token] = []
    while len(tokens) + len(more := entry()) <= length:
        tokens += more
    return tokens
