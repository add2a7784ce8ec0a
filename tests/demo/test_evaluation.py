"""The shipped weights on prompts they were never trained on: the floors the package promises, the table it prints."""

import re
from pathlib import Path

import pytest

from tl_neuron_attr import demo

PRINTED = Path(__file__).parents[2] / "docs" / "results" / "demo_model.md"


@pytest.fixture(scope="module")
def table() -> demo.Evaluation:
    model = demo.load()
    return demo.evaluate(lambda tokens: model(tokens)[:, -1])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["facts, held_out pairs", "a + b, held_out", "a - b, held_out"])
def test_facts_sums_and_differences_are_right(table: demo.Evaluation, task: str):
    assert table[task] >= 0.97


@pytest.mark.slow
def test_wholly_new_templates_are_understood(table: demo.Evaluation):
    assert table["facts, new templates"] >= 0.95


@pytest.mark.slow
def test_products_are_right(table: demo.Evaluation):
    """All hundred of them; those kept from training are too few for a share."""
    rows = {row.task: row for row in table.rows}
    right = sum(rows[f"a * b, {split}"].figure * rows[f"a * b, {split}"].prompts for split in ("trained", "held_out"))
    assert right / (rows["a * b, trained"].prompts + rows["a * b, held_out"].prompts) >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4, 8])
def test_in_context_learning_is_good_and_not_saturated(table: demo.Evaluation, k: int):
    assert 0.85 <= table[f"in context, foo/bar, k={k}"] <= 0.98


@pytest.mark.slow
def test_labels_never_seen_as_labels_are_used(table: demo.Evaluation):
    assert 0.85 <= table["in context, unseen nonsense labels, k=4"] <= 0.98


@pytest.mark.slow
def test_the_occupation_bias_is_the_one_put_in(table: demo.Evaluation):
    assert table["share of she, mean error, new templates"] <= 0.05


@pytest.mark.slow
def test_the_printed_table_is_that_of_the_shipped_weights(table: demo.Evaluation):
    printed = re.findall(r"^\| (.+?) +\| +(\d+) \| +([\d.]+) \|$", PRINTED.read_text(encoding="utf-8"), re.MULTILINE)
    assert [task for task, _, _ in printed] == [row.task for row in table.rows]
    for task, prompts, figure in printed:
        row = next(row for row in table.rows if row.task == task)
        assert row.prompts == int(prompts) and row.figure == pytest.approx(float(figure), abs=0.01), task
