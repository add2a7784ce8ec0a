"""Arguments of the right type and an odd value: answered or refused by the package in three lines, by 83 functions.

Functions are called as they should be, with one argument at a time replaced: counts below one and beyond every
limit, numbers that are none, empty and broken texts, empty lists. An answer is fine where the value means something; an
error of a library below, or of no kind that a caller expects, is not.
"""

import traceback
from collections.abc import Callable, Sequence
from functools import cache
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints, is_typeddict
from unittest.mock import MagicMock

import pytest

import tl_neuron_attr as tna
from tests.fuzzing import REFUSALS
from tests.test_typechecked import PUBLIC
from tl_neuron_attr import cna, demo, evaluate, incontext, sweep
from tl_neuron_attr.model.active_edits import Change

PROMPT, TARGET = "Tim Duncan plays the sport of", " basketball"
PAIRS = [("the nurse said that", "the doctor said that")]
HEADS = [(3, 2)]


@cache
def real() -> SimpleNamespace:
    """A model, and what is computed from it that other functions take."""
    model = demo.load()
    runs = model.run_with_cache(PROMPT)[1]
    value = tna.value_neurons(runs, TARGET, 3, text=False)
    prompts = incontext.from_demo(model, demo.in_context(4, 4, counts=(2, 2)))
    tokens = incontext.batch_of(model, prompts).tokens
    found = tna.value_neurons(runs, TARGET, 30, sites="mlp", text=False)
    root = found.pick([int(found.layer[0].argmax())])  # above the head whose writes it reads
    cases = cna.arithmetic_cases(model, [cna.Problem(3, "+", 5), cna.Problem(2, "+", 4)])
    study = mkdtemp()
    plan = sweep.plan_study(model, sweep.corpus_items([PROMPT]), task=sweep.CatalogueTask(), out=study)
    sweep.run_study(plan, model, progress=False)
    sweep.merge_study(study)
    return SimpleNamespace(
        model=model,
        study=study,
        plan=plan,
        adapted=cna.train_lora(model, cases, layer=2, rank=1, steps=1, progress=False),
        cache=runs,
        value=value,
        root=root,
        prompts=prompts,
        icl_cache=model.run_with_cache(tokens)[1],
        cases=cases,
        guard=cna.Guard({"sums": cases}),
        concepts=cna.concept_neurons(model, ["1", "2", "3"], top=2, progress=False),
        vector=incontext.function_vector(model, prompts, HEADS),
        transferring=cna.feature_transferring(runs, root, HEADS[0]),
    )


def calls(r: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """The arguments of a right and quick call of every function whose arguments can have odd values."""
    scored, run = {"cache": r.cache, "target": TARGET}, {"model": r.model, "tokens": PROMPT, "target": TARGET}
    icl, on_cases = {"model": r.model, "prompts": r.prompts}, {"model": r.model, "cases": r.cases}
    quiet, heads = {"progress": False}, {"heads": HEADS}
    return {
        "answer": {"model": r.model, "prompt": PROMPT, "answer": " basketball ."},
        "attention_sources": {"cache": r.cache, "layer": 3, "head": 2},
        "common_neurons": {"model": r.model, "prompts": [PROMPT, "3 + 5 ="], "k": 2, **quiet},
        "edit": {"model": r.model, "components": HEADS, "scale": 0.0},
        "explain": {"model": r.model, "prompt": PROMPT, "max_new_tokens": 2, "k": 2},
        "hooks_needed": {"model": r.model},
        "logit_flow": scored,
        "moved_tokens": {**scored, "neurons": r.value, "k": 2},
        "ablate": {"model": r.model, "components": HEADS, "scale": 0.0},
        "ablation_hooks": {"model": r.model, "components": HEADS, "scale": 0.0},
        "attribute_attn_neurons": scored,
        "attribute_head_positions": scored,
        "attribute_heads": scored,
        "attribute_layers": scored,
        "attribute_mlp_neurons": scored,
        "baseline_scores": scored,
        "compare_neurons": {**scored, "other": r.cache},
        "head_effects": {**run, **heads, **quiet},
        "key_tokens": {"cache_or_model": r.model, "neurons": r.value},
        "keep": {"model": r.model, "components": [("mlp", 1, 1)], "layers": [1]},
        "position_tokens": {"cache": r.cache, "layer": 1},
        "query_layers": {"cache": r.cache, "value": r.value},
        "query_neurons": {"cache": r.cache, "value": r.value, "k": 3, "text": False},
        "scored": scored,
        "target_ranks": {**scored, "neurons": r.value},
        "top_tokens": {"cache_or_model": r.model, "neurons": r.value},
        "trace": {**scored, "k": 2, "heads": 2, "queries": 2},
        "transformed_tokens": {"cache_or_model": r.model, "neurons": r.value, "layer": 1, "head": 1},
        "value_neurons": {**scored, "k": 3, "text": False},
        "cna.amplified": {**on_cases, "other": r.adapted, "top": 200, "layers": [4], **quiet},
        "cna.answered": on_cases,
        "cna.bias_neurons": {"model": r.model, "prompt_pairs": PAIRS, "targets": ["she", "he"], "n": 2},
        "cna.bias_report": {"model": r.model, "neurons": r.root, "prompt_pairs": PAIRS, "targets": ["she", "he"]},
        "cna.arithmetic_cases": {"model": r.model, "problems": [cna.Problem(3, "+", 5)]},
        "cna.changed_neurons": {**scored, "other": r.cache, "k": 2, "layers": [1]},
        "cna.coefficient_increase": {**on_cases, "others": {"a": r.model}, "ks": [2], **quiet},
        "cna.concept_neurons": {"model": r.model, "words": ["1", "2"], "top": 2, **quiet},
        "cna.feature_enhancing": {"cache": r.cache, "transferring": r.transferring},
        "cna.feature_predicting": {**run, "head": (3, 2), "k": 2},
        "cna.feature_transferring": {"cache": r.cache, "root": r.root, "head": (3, 2), "hops": 1},
        "cna.head_accuracy": {**on_cases, **heads, **quiet},
        "cna.logic_chain": {"model": r.model, "prompt": PROMPT, "head": (3, 2), "k": 2, "shallow": 2, "hops": 1},
        "cna.logic_chains": {
            "model": r.model, "prompt": PROMPT, "answer": " basketball .", "head": (3, 2), "k": 2, "shallow": 2,
            "hops": 1,
        },
        "cna.mask_keep_coef": {**on_cases, "head": (3, 2), "ks": [2], **quiet},
        "cna.neuron_coefficients": {"model": r.model, "others": {"a": r.model}, "case": r.cases[0]},
        "cna.problems": {"op": "+", "digits": 1, "n": 3},
        "cna.prune_mlp": {"model": r.model, "keep": [("mlp", 4, 17)], "layers": [4]},
        "cna.pruning_experiment": {
            "model": r.model, "train": r.cases, "test": r.cases, "layers": [4], "lora_layer": 2, "top": 100,
            "adapter": r.adapted, "steps": 1, "rank": 1, **quiet,
        },
        "cna.root_masking": {**on_cases, "head": (3, 2), "ks": [2], **quiet},
        "cna.safe_neurons": {
            "model": r.model, "neurons": r.root[0], "guard": r.guard, **quiet,
        },
        "cna.train_lora": {**on_cases, "layer": 2, "rank": 1, "steps": 1, **quiet},
        "cna.whole_answers": on_cases,
        "cna.zero_shot": {
            **on_cases, "found": r.concepts,
            "more_than": [1], "seeds": 1, **quiet,
        },
        "evaluate.estimate_effects": run,
        "evaluate.facts": {"kinds": ["sport"], "per_type": 2},
        "evaluate.faithfulness": {
            "model": r.model, "prompts": [PROMPT], "targets": [TARGET], "scores": ["log_prob"], "k": 2, **quiet,
        },
        "evaluate.important_neurons": {**run, "k": 2, "candidates": 4, **quiet},
        "evaluate.verify": {**run, "neurons": r.root, **quiet},
        "evaluate.select": {"model": r.model, "prompts": [evaluate.StudyPrompt(PROMPT, TARGET, "sport")]},
        "evaluate.verify_components": {**run, "components": ["L1N2"], **quiet},
        "incontext.arranged": {**icl, "sequence": [0, 1, 0, 1]},
        "incontext.attention_shift": {**icl, **heads},
        "incontext.batch_of": {**icl, "indices": [0]},
        "incontext.function_vector": {**icl, **heads},
        "incontext.icl_biases": {**icl, **heads, **quiet},
        "incontext.icl_prompt": {
            "model": r.model, "demonstrations": [("great movie", "foo"), ("awful plot", "bar")],
            "query": "lovely song", "gold": "foo", "end": " . ",
        },
        "incontext.in_context_heads": {**icl, "n": 1, "random_sets": 1, "layers": [3], **quiet},
        "incontext.label_logit_difference": {"cache": r.icl_cache, "prompts": r.prompts},
        "incontext.learned_metric": {**icl, **heads},
        "incontext.majority_correction": {**icl, **heads},
        "incontext.outcomes": icl,
        "incontext.outcomes_without": {**icl, "sets": [HEADS]},
        "incontext.position_free_attention": {"model": r.model, **heads},
        "incontext.prefix_matching": {"model": r.model, "length": 4},
        "incontext.reordered": {**icl, "order": [1, 0, 3, 2]},
        "incontext.two_towers": {"cache": r.icl_cache, "prompts": r.prompts, "layer": 1, "head": 1},
        "incontext.vector_effect": {**icl, "vector": r.vector},
        "incontext.with_query": {"model": r.model, "prompt": r.prompts[0], "queries": [("great movie", 0)]},
        "sweep.corpus_items": {"texts": [PROMPT, "3 + 5 ="], "chunk": 4},
        "sweep.merge_study": {"out": r.study},
        "sweep.open_plan": {"out": r.study},
        "sweep.plan_study": {
            "model": r.model, "items": sweep.corpus_items([PROMPT]), "task": sweep.CatalogueTask(), "out": r.study,
        },
        "sweep.read_catalogue": {"out": r.study, "model": r.model},
        "sweep.repair_study": {"out": r.study},
        "sweep.run_study": {"plan": r.plan, "model": r.model, **quiet},
        "sweep.run_shard": {"plan": r.plan, "model": r.model, "i": 0},
        "vis.attention": {"cache": r.cache, **heads},
        "vis.report": {**scored, "k": 2, "heads": 2},
    }  # fmt: skip


ARGUMENTS = list(calls(MagicMock()))  # only the names are wanted here: no model is loaded to collect tests

HUGE = 10**30
ODD: dict[Any, tuple[Any, ...]] = {
    int: (-1, 0, HUGE),
    float: (float("nan"), float("inf"), -1.0, 1e300),
    str: ("", "\ud800", "\0", "w" * 5000),
}
"""Odd values by what an annotation allows."""

OFF = ("progress", "seed", "return")
"""Arguments without odd values."""


WORK = ("random_sets", "search", "seeds")
"""Arguments that ask for so much work: nobody waits for the largest."""


def odd_values(hint: Any) -> tuple[Any, ...]:
    """Return the odd values of the types that an annotation allows, at the top or as elements of a list."""
    own = tuple(value for kind, values in ODD.items() if kind in (hint, *get_args(hint)) for value in values)
    many = [each for each in (hint, *get_args(hint)) if getattr(each, "__origin__", None) is Sequence]
    inside = tuple([value] for each in many for value in odd_values(get_args(each)[0]))
    return (*own, *inside, *([[]] if many else []))


def options(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a function takes by name and may have odd values, those of its ``**options`` too."""
    hints = get_type_hints(function)
    for hint in list(hints.values()):
        listed = next((each for each in get_args(hint) if is_typeddict(each)), None)
        hints |= {} if listed is None else get_type_hints(listed)
    return {name: hint for name, hint in hints.items() if name not in OFF and odd_values(hint)}


def public(where: str) -> Callable[..., Any]:
    return PUBLIC.get(f"tl_neuron_attr.{where}") or PUBLIC[where]


def tried(function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Call a function; a change of the model, which all share, is undone."""
    if isinstance(found := function(**given), Change):
        found.undo()


@pytest.mark.slow
@pytest.mark.parametrize("where", ARGUMENTS)
def test_odd_values_are_answered_or_refused_by_the_package(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, given = public(where), calls(real())[where]
    tried(function, given)
    for name, hint in options(function).items():
        for value in odd_values(hint):
            if name in WORK and value == HUGE:
                continue
            try:
                tried(function, {**given, name: value})
            except (*REFUSALS, OSError) as error:
                raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
                assert "/tl_neuron_attr/" in raised_at, f"{name}={value!r:.40}: {raised_at} raised {error!r}"
                assert len(str(error).splitlines()) <= 3 and len(str(error)) < 500, f"{name}={value!r:.40}: {error}"
            except Exception as error:
                raise AssertionError(f"{name}={value!r:.40}: {error!r}") from error
