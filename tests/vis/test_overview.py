import tl_neuron_attr as tna
from tests.vis.test_tabs import unpacked
from tests.vis.test_whole_answer import data_of
from tl_neuron_attr import demo, vis
from tl_neuron_attr.vis.overview import Best, Listed, overview

PROMPTS, ANSWERS = ["Tim Duncan plays the sport of", "The capital of Italy is"], [" basketball", " Rome ."]
QUICK = {"k": 3, "heads": 2, "queries": 2, "suppressing": 0, "measure": False}


def test_a_batch_is_a_page_with_a_line_for_each_prompt():
    model = demo.load()
    q = tna.answer(model, PROMPTS, ANSWERS)
    table, token, whole, *tokens = map(data_of, unpacked(vis.report(q, **QUICK).body))
    rows = table["tables"]["overview"]
    assert [row["text"].replace(" ", "") for row in rows] == ["basketball", "Rome."]
    alone = [tna.answer(model, *pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    for row, own in zip(rows, alone, strict=True):
        best = tna.value_neurons(own, k=1)
        assert (row["neuron"], row["head"]) == (best.labels[0], head_of(tna.attribute_heads(own)))
    assert token["target"].strip() == "basketball" and len(tokens) == len(whole["answer_tokens"]) == 2
    by_one = [data_of(part) for part in unpacked(vis.report(iter(alone), **QUICK).body)]
    assert [part.get("target") for part in by_one] == [None, token["target"], None, *(t["target"] for t in tokens)]


def head_of(scores):
    layer, head = divmod(int(scores.argmax()), scores.shape[-1])
    return f"L{layer}H{head}"


def test_a_rows_button_has_its_parts_number():
    best = Best("said", 0.5, "L1 MLP", 1.0, "L1H0", 0.5, "L1N2", 0.4, (" a",))
    part = overview([Listed(4, best, "before"), Listed(9, best, "then")], "lead", "model")
    assert 'data-part="4"' in part and 'data-part="9"' in part and "before" in part
    assert best.record["neuron"] == "L1N2"
