"""The part on a whole answer: its numbers are sums, and the cost of its neurons is measured token by token."""

import json
import re

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.vis.test_hostile_text import HARMLESS, HOSTILE, reading, structures
from tests.vis.test_tabs import ANSWER, PROMPT, unpacked
from tl_neuron_attr import demo, vis
from tl_neuron_attr.vis.neuron_rows import most_of


@pytest.fixture(scope="module")
def model():
    return demo.load()


def data_of(part):
    return json.loads(re.search(r'id="tna-data">(.*?)</script>', part, re.DOTALL)[1])


def test_the_part_holds_sums_over_the_tokens_parts(model):
    q = tna.answer(model, PROMPT, ANSWER)
    whole, *tokens = map(data_of, unpacked(vis.report(q, k=6, heads=3).body))
    assert whole["log_prob"] == pytest.approx(sum(token["log_prob"] for token in tokens), abs=1e-5)
    for site in ("attn", "mlp"):
        added = torch.tensor([token["layers"][site] for token in tokens]).sum(0)
        assert whole["layers"][site] == pytest.approx(added.tolist(), abs=1e-4)
    assert torch.allclose(torch.tensor(whole["heads"]), torch.tensor([t["heads"] for t in tokens]).sum(0), atol=1e-4)
    assert [row["neuron"] for row in whole["tables"]["value"]] == tna.value_neurons(q, k=6).labels
    for name in ("value", "heads"):
        for row in whole["tables"][name]:
            assert row["score"] == pytest.approx(sum(row["by_token"]), abs=1e-4)


def test_what_the_neurons_cost_is_that_of_both_tokens_with_them_really_gone(model):
    """Taken out at once, by zero weights: MLP neurons only, which are gone at every position in both ways."""
    q = tna.answer(model, PROMPT, ANSWER)
    (whole, *_) = map(data_of, unpacked(vis.report(q, k=1, heads=1, queries=0, suppressing=0).body))
    (row,) = whole["tables"]["value"]
    assert row["site"] == "mlp"
    with tna.ablate(model, [row["neuron"]]):
        left = tna.answer(model, PROMPT, ANSWER).log_prob
    cost = float(q.log_prob - left)
    assert whole["without"] == {"1": pytest.approx(cost, abs=1e-4)} and row["effect"] == pytest.approx(cost, abs=1e-4)


@pytest.mark.parametrize(
    ("answer", "contrast"),
    [
        (tna.any_of(" basketball .", " golf ."), None),
        (" basketball .", " golf ."),
        (tna.any_of(" basketball", " golf"), None),
    ],
)
def test_where_scores_are_no_sums_over_tokens_there_is_one_part(model, answer, contrast):
    q = tna.answer(model, PROMPT, answer, contrast=contrast)
    (whole,) = unpacked(vis.report(q, k=4, heads=2).body)
    data = data_of(whole)
    assert data["log_prob"] == pytest.approx(float(q.log_prob), abs=1e-5) and data["answer_tokens"] == []
    assert [row["neuron"] for row in data["tables"]["value"]] == tna.value_neurons(q, k=4).labels


def test_of_several_prompts_in_several_runs_each_is_shown(model):
    """An answer against another is two runs a prompt: the second prompt's are not the cache's first rows."""
    prompts = [PROMPT, "the capital of Italy is"]
    q = tna.answer(model, prompts, [" basketball .", " Rome ."], contrast=[" golf .", " Paris ."])
    whole, *_ = unpacked(vis.report(q, k=2, heads=1, queries=0, suppressing=0, measure=False).body)
    shown = [row["prompt"] for row in data_of(whole)["tables"]["overview"]]
    assert [text.removeprefix("<bos>").replace(" ", "") for text in shown] == [p.replace(" ", "") for p in prompts]


def test_a_long_answer_names_the_token_a_row_adds_most_to(model):
    q = tna.answer(model, PROMPT, " basketball . Tim Duncan plays the sport")
    (whole, *tokens) = unpacked(vis.report(q, k=2, heads=1, queries=0, suppressing=0, measure=False).body)
    assert len(tokens) == 7 and "most to" in whole
    row = data_of(whole)["tables"]["value"][0]
    best = most_of(list(zip(data_of(whole)["answer_tokens"], row["by_token"], strict=True)), row["score"])
    shown = whole.replace("␣", "")
    assert best[1] == max(row["by_token"]) and f'most to <bdi class="token">{best[0].strip()}' in shown


def test_no_element_comes_from_a_token_of_an_answer():
    model, pages = architectures.build("llama", dtype=torch.float32), []
    for texts in (HOSTILE, [HARMLESS]):
        with reading(model, texts):
            q = tna.answer(model, torch.arange(20), torch.tensor([30, 31]))
            body = vis.report(q, k=3, heads=2, queries=2, suppressing=2, measure=False).body
            whole = str(body).partition('<script type="application/json" class="tna-packed">')[0]
            pages.append(structures(dict(enumerate([whole, *unpacked(body)]))))
    assert len(pages[0]) == 4 and pages[0] == pages[1]
