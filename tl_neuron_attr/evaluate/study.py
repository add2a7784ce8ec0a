"""The knowledge study of paper 1, sections 4.2 to 4.4: prompt by prompt, and able to resume where it stopped."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.examine import CONDITIONS, EXAMINED, Sizes, examine, measured_outcomes, widest_mlp
from tl_neuron_attr.evaluate.prompts import StudyPrompt, unnamed
from tl_neuron_attr.evaluate.results import KnowledgeStudy
from tl_neuron_attr.evaluate.select import KEPT, AskedPrompt, asked_prompt, select
from tl_neuron_attr.evaluate.specificity import LISTS, common_numbers, drops, reference_prompts
from tl_neuron_attr.evaluate.study_folder import Record, StudyFolder
from tl_neuron_attr.evaluate.tidy import tidy
from tl_neuron_attr.model.components import Component
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.results.plural import plural


@typechecked
@torch.no_grad()
def knowledge_study(
    model: Any,
    prompts_by_type: Mapping[str, Sequence[StudyPrompt]],
    *,
    sizes: Sizes | None = None,
    every_neuron: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> KnowledgeStudy:
    """Find where types of knowledge live: layers, heads, value and query neurons, and what zeroing them costs.

    Every kept prompt (:func:`~tl_neuron_attr.evaluate.select`) is scored in full, its value neurons, its query neurons
    and as many random ones are zeroed; then the best heads of each type are zeroed on every prompt, and each prompt's
    neurons on prompts of other types, with and without the neurons that are common to most prompts. Of a target of
    several tokens, scores and log-probabilities are sums over its tokens, and its rank is that of its worst token.

    Args:
        model: The model.
        prompts_by_type: The prompts of each type of knowledge.
        sizes: How many neurons and heads; :meth:`Sizes.fitting` by default.
        every_neuron: Whether to sum the scores of all neurons and of all above zero too (paper 1, Table 5): more than
            nine tenths of the time on a real model. The sums of the best 100 and 200 are there without.
        out: A folder that keeps every prompt's results as they come. Run again with the same arguments, after being
            killed at any point, the study resumes where it stopped and gives the same results. It belongs to one model
            (every weight counts), tokenizer, list of prompts, sizes, seed and release of this package.
        seed: Of the random neurons.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If no prompt is kept, a type can't be a name or isn't its prompts', ``out`` holds another study, or
            hooks are active on the model while ``out`` is given.
        OSError: If ``out`` can't be written.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> facts = tna.evaluate.facts(["capital"], per_type=2)
        >>> found = knowledge_study(tna.demo.load(), facts, progress=False)
        >>> found.kept()["kept"].tolist()
        [2]
    """
    sizes = sizes or Sizes.fitting(model)
    prompts = [prompt for group in prompts_by_type.values() for prompt in group]
    _require_types(prompts_by_type)
    folder = StudyFolder.of(out, model, prompts, sizes, seed, every_neuron)
    selection = folder.selection(lambda: select(model, prompts))
    kept = selection.index[selection["status"] == KEPT].tolist()
    if not kept:
        counts = selection["status"].value_counts().to_dict()
        raise ValueError(f"no prompt is kept by the selection rule: {counts}")

    if progress:
        tqdm.write(_selected(selection), file=sys.stderr)
    recorded = partial(_recorded, folder, progress)
    asked = {i: _asked(model, prompts[i]) for i in kept}

    def score(i: int) -> Record:
        return examine(model, asked[i], sizes=sizes, seed=seed + i, every_neuron=every_neuron)

    records = recorded("prompts", kept, score, EXAMINED, "scoring prompts")
    types = [prompts[i].type for i in kept]
    best = {t: _best_heads([records[i] for i in kept if prompts[i].type == t], sizes) for t in dict.fromkeys(types)}

    def zero_heads(i: int) -> Record:
        return _without_heads(model, asked[i], records[i], best)

    cross = recorded("cross", kept, zero_heads, ("outcomes",), "zeroing heads")
    others = reference_prompts({i: prompts[i].type for i in kept})
    common = common_numbers(list(records.values()))

    def zero_elsewhere(i: int) -> Record:
        lists = {kind: records[i][f"{kind}_neurons"].tolist() for kind in LISTS}
        lists["value"] = lists["value"][: sizes.value_mlp]
        return drops(model, lists, common, [(asked[j], _log_prob(records[j])) for j in (i, *others[i])])

    with_others = [i for i in kept if others[i]]
    specific = recorded("specific", with_others, zero_elsewhere, ("counts", "drops"), "zeroing elsewhere")
    outcomes = {i: c["outcomes"] for i, c in cross.items()}
    study = tidy(selection, records, outcomes, specific, list(best), widest_mlp(model), asdict(sizes))
    if out is not None:
        study.save(out)
    return study


def _recorded(
    folder: StudyFolder,
    progress: bool,
    part: str,
    prompts: Sequence[int],
    make: Callable[[int], Record],
    names: Sequence[str],
    shown: str,
) -> dict[int, Record]:
    """Return the records of all prompts; the bar starts behind an earlier run's, so that its time left is right."""
    found = {i: folder.record(part, i, make, names) for i in prompts if folder.has(part, i)}
    missing = [i for i in prompts if i not in found]
    kept, total = len(found), len(prompts)
    for i in tqdm(missing, desc=shown, unit="prompt", disable=not progress, initial=kept, total=total):
        found[i] = folder.record(part, i, make, names)
    return {i: found[i] for i in prompts}


def _selected(selection: pd.DataFrame) -> str:
    """Return how many prompts are kept, and how many are left out for which reason."""
    kept = selection["status"] == KEPT
    left_out = Counter(selection["status"][~kept])
    reasons = "".join(f"; {count} left out: {reason}" for reason, count in left_out.most_common())
    several = int((kept & (selection["target_tokens"] > 1)).sum())
    answers = f", {several} with answers of several tokens" if several else ""
    return f"{int(kept.sum())} of {plural(len(selection), 'prompt')} kept{answers}{reasons}"


def _asked(model: Any, prompt: StudyPrompt) -> AskedPrompt:
    """Return a prompt that was kept, as token ids."""
    asked = asked_prompt(model, prompt)
    assert isinstance(asked, AskedPrompt), asked
    return asked


def _best_heads(records: Sequence[Record], sizes: Sizes) -> list[Component]:
    """Return the best heads of a type, mean over its prompts."""
    mean = torch.stack([record["heads"] for record in records]).mean(0)
    return [divmod(i, mean.shape[1]) for i in sizes.best_heads(mean.flatten())]


def _without_heads(model: Any, asked: AskedPrompt, record: Record, best: Mapping[str, list[Component]]) -> Record:
    with ablate(model, list(best.values())):
        found = measured_outcomes(model, asked.tokens.expand(len(best), -1), asked.target)
    untouched = record["outcomes"][CONDITIONS.index("untouched")]
    return {"outcomes": torch.cat([untouched[None], found])}


def _log_prob(record: Record) -> float:
    """Return the untouched log-probability of a prompt's answer."""
    return float(record["outcomes"][CONDITIONS.index("untouched"), -1])


def _require_types(prompts_by_type: Mapping[str, Sequence[StudyPrompt]]) -> None:
    """Refuse types that can't name a column or that a prompt doesn't have.

    Raises:
        ValueError: Naming the type, or the prompt.
    """
    for kind, prompts in prompts_by_type.items():
        if problem := unnamed(kind):
            raise ValueError(f"prompts_by_type: the type {problem}")
        for i, prompt in enumerate(prompts):
            if prompt.type != kind:
                raise ValueError(f"prompts_by_type[{kind!r}][{i}] is of type {prompt.type!r}: group them by by_type()")
