"""The report: one page that tells which layers, heads, source tokens and neurons raised a token or an answer."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pandas as pd
import torch
from markupsafe import Markup
from tqdm import tqdm
from transformer_lens import ActivationCache
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.own_run import own_run
from tl_neuron_attr.model.scored import as_scored, refuse_given
from tl_neuron_attr.model.scored_cache import ScoredCache, Scoring
from tl_neuron_attr.model.targets import Target
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neuron_contexts import require_catalogue
from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.token_text import visible
from tl_neuron_attr.vis import one_token, whole_answer
from tl_neuron_attr.vis.one_token import OneToken, Shown, token_tab
from tl_neuron_attr.vis.overview import Best, Listed, overview
from tl_neuron_attr.vis.tabs import Line, Tab, paged
from tl_neuron_attr.vis.templates import render
from tl_neuron_attr.vis.view import View
from tl_neuron_attr.vis.views import tokens_before_target
from tl_neuron_attr.vis.whole_answer import WholeAnswer, answer_tab


@typechecked
@torch.no_grad()
def report(
    cache: ActivationCache | ScoredCache | Iterable[ScoredCache],
    target: Target | None = None,
    *,
    k: int = 30,
    heads: int = 8,
    queries: int = 20,
    suppressing: int = 10,
    measure: bool = True,
    catalogue: Mapping[str, pd.DataFrame] | None = None,
    name: str = "",
    progress: bool = True,
    **scoring: Unpack[Scoring],
) -> View:
    """Draw one page on why the model said ``target``: layers, heads, source tokens, value and query neurons.

    Of an answer of several tokens the page shows the text: a click on a token shows that token's part, and *whole
    answer* the sums. Several prompts stand below each other, each with its own parts.

    Args:
        cache: A cache of a forward pass, or what :func:`~tl_neuron_attr.scored` or :func:`~tl_neuron_attr.answer` made
            of it, which has its own target and scoring; or several of the latter. They are taken one after another, so
            that a generator has one cache in memory at a time.
        target: The token or answer followed; the model's own prediction by default.
        k: How many value neurons.
        heads: How many of the best heads are shown in detail.
        queries: How many query neurons; 0 for none.
        suppressing: How many of the neurons and heads that lower the target most; 0 for none.
        measure: Whether to run the prompt again without the value neurons, one by one and together, and to show what
            that costs: some forward passes, and more memory. Nothing is measured where the run can't be repeated.
        catalogue: The tables of a merged :class:`~tl_neuron_attr.sweep.CatalogueTask`: the contexts of each MLP neuron
            unfold in its row.
        name: What to call the model; the name it was booted with by default.
        progress: Whether to show a progress bar, once it takes more than a moment.
        **scoring: ``pos``, ``contrast``, ``model``, ``final_bias``: see :func:`~tl_neuron_attr.scored`.

    Returns:
        A view: shown in a notebook, ``.save(path)`` writes the page.

    Raises:
        ValueError: If there is no cache, ``heads`` is below one, another count below zero, ``catalogue``
            is something else or of another model, or as :func:`~tl_neuron_attr.value_neurons`.
        IndexError: If a position or token id is out of range.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model, prompt = tna.demo.load(), "Tim Duncan plays the sport of"
        >>> _, cache = model.run_with_cache(prompt)
        >>> report(cache, " basketball")
        View('What made the model say basketball?'): shown in a notebook; .save(path) writes a page
        >>> report(tna.answer(model, prompt, " basketball ."), measure=False)
        View('What made the model say basketball .?'): shown in a notebook; .save(path) writes a page
    """
    if heads < 1:
        raise ValueError(f"heads must be 1 or more, got {heads}")
    for count, given in (("queries", queries), ("suppressing", suppressing)):
        if given < 0:
            raise ValueError(f"{count} must be 0 or more, got {given}")
    require_catalogue(catalogue or {})
    shown = Shown(k, heads, queries, suppressing, measure, name, catalogue)
    with tqdm(desc="report", unit="step", total=0, delay=2, disable=not progress) as bar:
        if isinstance(cache, ActivationCache | ScoredCache):
            q = as_scored(cache, target, SITES, **scoring)
            if len(q) == 1:
                return _one(_own(q), shown, bar)
            return _several(_each([q]), shown, bar)
        refuse_given(target=target, **scoring)
        return _several(_each(cache), shown, bar)


def _own(q: ScoredCache) -> ScoredCache:
    """Return what is scored of one prompt in a cache of its own, where it is one run."""
    return own_run(q) if len(q.places.row.unique()) == 1 else q


def _each(caches: Iterable[ScoredCache]) -> Iterator[ScoredCache]:
    for q in caches:
        q.require(SITES)
        yield from (_own(q[i]) for i in range(len(q)))


def _one(q: ScoredCache, shown: Shown, bar: "tqdm[Any]") -> View:
    """Return the page of one prompt: of a token alone, or of an answer's parts."""
    shown = _following(q, shown, bar)
    if _is_token(q):
        found = _token(q, shown, bar)
        return View(token_tab(found, shown, alone=True), found.prediction.title, scripted=True, whole=True)
    answer = _answer(q, shown, bar)
    title = f"What made the model say {visible(answer.text.strip())}?"
    heading = render("asked.html.j2", text=answer.text, contrast=answer.contrast)
    return paged([_answer_line(answer, shown)], heading, title)


def _several(each: Iterable[ScoredCache], shown: Shown, bar: "tqdm[Any]") -> View:
    """Return the page of several prompts, the first part a table of them.

    Raises:
        ValueError: If there are none.
    """
    lines: list[Line] = []
    best: list[Best] = []
    for q in each:
        shown = _following(q, shown, bar)
        if _is_token(q):
            found = _token(q, shown, bar)
            text, part = found.prediction.text, token_tab(found, shown, alone=False)
            lines.append(Line(found.tokens, (Tab(text, part, found.prediction.prob),)))
            best.append(Best.of(text, found.prediction.prob, found.layers, found.heads, found.value))
        else:
            answer = _answer(q, shown, bar)
            lines.append(_answer_line(answer, shown))
            best.append(Best.of(answer.text, answer.prob, answer.layers, answer.heads, answer.value))
    if not lines:
        raise ValueError("cache is empty: give at least one scored cache")
    numbers = accumulate((len(line.tabs) for line in lines[:-1]), initial=1)
    rows = [Listed(n, at, "".join(line.prompt)) for n, at, line in zip(numbers, best, lines, strict=True)]
    title = f"What made the model say this: {plural(len(lines), 'prompt')}"
    table = overview(rows, "What did most for each; click what was said for its own part.", shown.name)
    first = Tab("all prompts", table, whole=True)
    return paged(lines, Markup("<h1>{}</h1>").format(title), title, first=first)


def _following(q: ScoredCache, shown: Shown, bar: "tqdm[Any]") -> Shown:
    """Return what is shown, with the model's name if no other is given, and the bar following the work."""
    name = shown.name or str(getattr(q.stream.model.cfg, "model_name", ""))
    return replace(shown, name=name, done=lambda: bar.update())


def _is_token(q: ScoredCache) -> bool:
    return q.sums is None or len(q.places) == 1


def _token(q: ScoredCache, shown: Shown, bar: "tqdm[Any]") -> OneToken:
    bar.total = (bar.total or 0) + one_token.TOKEN_STEPS
    return OneToken.of(q if q.sums is None else q.per_token, shown)


def _answer(q: ScoredCache, shown: Shown, bar: "tqdm[Any]") -> WholeAnswer:
    """Return what is shown of an answer; its tokens too, where its scores are sums over them."""
    sums = q.sums is not None and len(q.sums) == len(q.sums.result)
    each = [q.per_token[i] for i in range(len(q.places))] if sums else []
    bar.total = (bar.total or 0) + whole_answer.ANSWER_STEPS + one_token.TOKEN_STEPS * len(each)
    return WholeAnswer.of(q, [OneToken.of(one, shown) for one in each], shown)


def _answer_line(found: WholeAnswer, shown: Shown) -> Line:
    whole = Tab("whole answer" if found.tokens else found.text, answer_tab(found, shown), found.prob, whole=True)
    each = [Tab(one.prediction.text, token_tab(one, shown, alone=False), one.prediction.prob) for one in found.tokens]
    return Line(tokens_before_target(found.q), (whole, *each))
