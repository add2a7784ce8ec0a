"""What a result or an input is made of, and what its methods take: anything wrong is refused in three lines."""

import dataclasses
import inspect
import traceback
from functools import cache
from typing import Any, get_type_hints

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests.fuzzing import REFUSALS
from tests.test_typechecked import MODULES
from tests.test_values import HEADS, PROMPT, TARGET, odd_values, real
from tl_neuron_attr import cna, demo, evaluate, incontext, vis

MADE_BY_FUNCTIONS = {tna.ScoredCache, cna.Removal, tna.sweep.Plan}
"""Classes that nobody makes by hand: ``scored``, ``prune_mlp`` and ``plan_study`` do."""

CLASSES = {
    f"{module.__name__.removeprefix('tl_neuron_attr.')}.{name}": found
    for module in MODULES
    for name in module.__all__
    if dataclasses.is_dataclass(found := getattr(module, name)) and found not in MADE_BY_FUNCTIONS
}


@pytest.mark.parametrize("where", CLASSES)
def test_a_field_of_another_type_is_refused_in_three_lines(where):
    made = CLASSES[where]
    fields = [field for field in dataclasses.fields(made) if field.init and field.type is not Any]
    with pytest.raises(TypeError) as raised:
        made(**{field.name: object() for field in dataclasses.fields(made) if field.init})
    message = str(raised.value)
    assert message.startswith(f"{made.__name__}: {fields[0].name}"), message
    assert len(message.splitlines()) <= 3 and len(message) < 500, message


@cache
def methods() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return right calls of the methods of results."""
    r = real()
    neurons = tna.value_neurons(r.cache, TARGET, 3)
    flow = tna.trace(r.cache, TARGET, k=2, heads=2, queries=2)
    layers = tna.attribute_layers(r.cache, TARGET)
    effects = tna.head_effects(r.model, PROMPT, TARGET, heads=HEADS, progress=False)
    common = tna.common_neurons(r.model, [PROMPT, "3 + 5 ="], k=5, progress=False)
    comparison = tna.compare_neurons(r.cache, r.cache, TARGET)
    accuracy = cna.head_accuracy(r.model, r.cases, heads=HEADS, progress=False)
    batch, outcomes = incontext.batch_of(r.model, r.prompts), incontext.outcomes(r.model, r.prompts)
    quick = {"scores": ["log_prob"], "k": 2, "progress": False}
    faithfulness = evaluate.faithfulness(r.model, [PROMPT], targets=[TARGET], **quick)
    bias = cna.bias_report(r.model, r.root, prompt_pairs=[("the nurse said that", "the doctor said that")],
                           targets=["she", "he"])  # fmt: skip
    return {
        "Neurons.top": (neurons.top, {"k": 2}),
        "Neurons.pick": (neurons.pick, {"places": [0]}),
        "Neurons.of_site": (neurons.of_site, {"site": "mlp"}),
        "Neurons.mlp_indices": (neurons.mlp_indices, {"layer": 1}),
        "Neurons.__getitem__": (neurons.__getitem__, {"prompt": 0}),
        "Neurons.to_frame": (neurons.to_frame, {"catalogue": None}),
        "Neurons.load": (tna.Neurons.load, {"path": "no such file"}),
        "ScoredCache.__getitem__": (tna.scored(r.cache, TARGET).__getitem__, {"result": 0}),
        "Flow.prune": (flow.prune, {"share": 0.5}),
        "Flow.load": (tna.Flow.load, {"path": "no such file"}),
        "LayerScores.load": (type(layers).load, {"path": "no such file"}),
        "HeadEffects.load": (type(effects).load, {"path": "no such file"}),
        "EffectEstimates.top": (evaluate.estimate_effects(r.model, PROMPT, TARGET).top, {"k": 2, "sites": ("mlp",)}),
        "CommonNeurons.without": (common.without, {"neurons": neurons, "k": 2}),
        "CommonNeurons.marked": (common.marked, {"neurons": neurons}),
        "NeuronComparison.top": (comparison.top, {"k": 2}),
        "NeuronComparison.united": (comparison.united, {"k": 2}),
        "NeuronComparison.to_frame": (comparison.to_frame, {"k": 2}),
        "HeadAccuracy.does_task": (accuracy.does_task, {"group": None}),
        "HeadAccuracy.ranked": (accuracy.ranked, {"group": None}),
        "HeadAccuracy.table": (accuracy.table, {"k": 1}),
        "Guard.measure": (r.guard.measure, {"model": r.model}),
        "ConceptNeurons.more_than": (r.concepts.more_than, {"m": 1}),
        "ConceptNeurons.random": (r.concepts.random, {"n": 2}),
        "Problem.carries_into": (cna.Problem(17, "+", 5).carries_into, {"place": 1}),
        "BiasReport.by": (bias.by, {"column": "pair"}),
        "FunctionVector.hooks": (r.vector.hooks, {"layer": 1}),
        "IclBatch.inputs": (batch.inputs, {"copies": 2}),
        "Outcomes.prob": (outcomes.prob, {"among": "labels"}),
        "Outcomes.right": (outcomes.right, {"among": "labels"}),
        "Outcomes.__getitem__": (outcomes.__getitem__, {"condition": 0}),
        "Faithfulness.summary": (faithfulness.summary, {"k": 2}),
        "Faithfulness.by_fact": (faithfulness.by_fact, {"facts": ["a"]}),
        "Faithfulness.differences": (faithfulness.differences, {"reference": "log_prob"}),
        "Evaluation.__getitem__": (demo.Evaluation(()).__getitem__, {"task": "sport"}),
        "KnowledgeStudy.load": (evaluate.KnowledgeStudy.load, {"folder": "no such folder"}),
        "View.save": (vis.head_scores(torch.zeros(2, 3)).save, {"path": "no such folder/page.html"}),
    }


NAMES = """
    Neurons.top Neurons.pick Neurons.of_site Neurons.mlp_indices Neurons.__getitem__ Neurons.to_frame Neurons.load
    ScoredCache.__getitem__ Flow.prune Flow.load LayerScores.load HeadEffects.load EffectEstimates.top
    CommonNeurons.without CommonNeurons.marked NeuronComparison.top NeuronComparison.united NeuronComparison.to_frame
    HeadAccuracy.ranked HeadAccuracy.does_task HeadAccuracy.table Guard.measure ConceptNeurons.more_than
    ConceptNeurons.random Problem.carries_into BiasReport.by FunctionVector.hooks IclBatch.inputs Outcomes.prob
    Outcomes.right Outcomes.__getitem__ Faithfulness.summary Faithfulness.by_fact Faithfulness.differences
    Evaluation.__getitem__ KnowledgeStudy.load View.save
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_does_not_understand_is_refused_in_three_lines(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method, given = methods()[name]
    for argument in given:
        hint = get_type_hints(inspect.unwrap(method), localns={"pd": pd}).get(argument)
        for value in (object(), real().model.blocks[0].mlp, *odd_values(hint)):
            try:
                method(**{**given, argument: value})
            except (*REFUSALS, KeyError, OSError) as error:
                raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
                assert "/tl_neuron_attr/" in raised_at, f"{argument}={value!r:.40}: {raised_at} raised {error!r}"
                assert len(str(error).splitlines()) <= 3 and len(str(error)) < 500, f"{argument}={value!r:.40}: {error}"
            else:
                assert type(value) is not object, f"{argument}={value!r:.40} was accepted"
                assert value != -1 or name == "ScoredCache.__getitem__", f"{argument}={value} was accepted"


def test_every_method_has_a_name_here():
    assert set(methods()) == set(NAMES)
