"""Two hundred hostile texts as the types, prompts, targets and names that studies and reports hold: text on every page.

A page of hostile texts has the very elements and attributes of the page of harmless ones.
"""

from dataclasses import replace

import pandas as pd
import pytest

import tl_neuron_attr as tna
from tests.vis.test_hostile_text import HOSTILE, same_tables, structures
from tl_neuron_attr import cna, demo, evaluate, sweep, vis
from tl_neuron_attr.results.token_text import encodable

AT_ONCE = 25


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each page is drawn of, found on the bundled model."""
    model, out = demo.load(), tmp_path_factory.mktemp("study")
    facts = evaluate.facts(["capital", "sport"], per_type=1)
    plan = sweep.plan_study(
        model, sweep.prompt_items(facts["capital"]), task=sweep.KnowledgeTask(), out=out / "sharded"
    )
    sweep.run_study(plan, model, progress=False)
    neurons = tna.value_neurons(model.run_with_cache("the nurse said that")[1], " she", 3, sites="mlp")
    cases = cna.arithmetic_cases(model, [cna.Problem(3, "+", 5)])
    pairs, guard = [("the nurse said that", "the doctor said that")], cna.Guard({"sums": cases})
    quick = {"scores": ["log_prob"], "k": 2, "progress": False}
    return {
        "study": evaluate.knowledge_study(model, facts, progress=False),
        "merged study": sweep.merge_study(out / "sharded"),
        "bias": cna.bias_report(model, neurons, pairs, ["she"], guard=guard),
        "coefficients": cna.coefficient_increase(model, others={"other": model}, cases=cases, progress=False),
        "faithfulness": evaluate.faithfulness(model, ["3 + 5 ="], targets=["8"], **quick),
    }


def with_types(frame, texts, column="type"):
    """The rows of one type, once for each text, which is the type then; so all that holds the type's name."""
    if column not in frame:
        return frame
    name = frame[column].iloc[0]
    mine = frame[frame[column] == name]
    parts = [
        mine.assign(**{c: [text if cell == name else cell for cell in mine[c]] for c in texts_of(mine)})
        for text in texts
    ]
    return pd.concat(parts, ignore_index=True).assign(
        **{c: [t for t in texts for _ in range(len(mine))] for c in ("prompt", "target") if c in texts_of(frame)}
    )


def texts_of(frame):
    return [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]


def pages(found, texts):
    """Every page of these frames with the texts in them."""
    study, bias = found["study"], found["bias"]
    frames = {name: with_types(frame, texts) for name, frame in vars(study).items() if name != "sizes"}
    left_out = study.selection.iloc[[0] * len(texts)].assign(status=texts, prompt=texts, target=texts, type=texts[0])
    frames["selection"] = pd.concat([frames["selection"], left_out], ignore_index=True)
    merged = {name: with_types(frame, texts) for name, frame in found["merged study"].items()}
    merged["statuses"] = merged["statuses"].assign(status=texts)
    wide = replace(
        bias,
        frame=with_types(bias.frame, texts, "pair").assign(target=texts),
        capabilities=bias.capabilities.iloc[[0] * len(texts)].assign(measure=texts),
        failures=tuple(texts),
    )
    coefficients, faithfulness = found["coefficients"], found["faithfulness"]
    methods = faithfulness.frame[faithfulness.frame["score"] == "log_prob"]
    views = {
        "study": vis.study(replace(study, **frames), name=texts[0]),
        "merged study": vis.merged_study(merged, name=texts[0]),
        "bias by pair": vis.bias(wide),
        "bias by target": vis.bias(wide, by="target"),
        "coefficients": vis.coefficients(
            replace(
                coefficients,
                frame=with_types(coefficients.frame, texts, "model"),
                accuracy=dict.fromkeys(["original", *texts], 1.0),
            )
        ),
        "faithfulness": vis.faithfulness(
            replace(faithfulness, frame=with_types(methods, texts, "score"), problems=tuple(texts))
        ),
    }
    return {name: str(view.body) for name, view in views.items()}, {"bias": str(wide), "failures": str(bias)}


def as_read(text):
    """A text as a frame can hold it; on an axis a line break is one, and what is empty has no element."""
    return encodable(text).replace("\n", "line") or "empty"


@pytest.fixture(scope="module")
def harmless(found):
    """The pages of words that nothing could take for markup."""
    return pages(found, [f"word {i}" for i in range(AT_ONCE)])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, AT_ONCE))
def test_no_element_comes_from_a_text_of_a_frame(found, harmless, first):
    texts = [as_read(text) for text in HOSTILE[first : first + AT_ONCE]]
    drawn, tables = pages(found, texts)
    plain, plain_tables = harmless
    assert structures(drawn) == structures(plain)
    same_tables(tables, plain_tables)
