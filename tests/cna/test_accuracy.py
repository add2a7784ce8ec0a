"""Accuracies with heads zeroed against counting by hand."""

import pandas as pd
import pytest
import torch

from tests import architectures
from tl_neuron_attr.cna import Case, HeadAccuracy, answered, head_accuracy
from tl_neuron_attr.model.intervene import edit


@torch.no_grad()
def cases_of(model):
    """Prompts of two lengths; half of the answers are what the model says."""
    found = []
    for i, length in enumerate([4, 6, 4, 6, 4, 6, 6, 4]):
        tokens = architectures.prompts(1, length, seed=i)
        said = int(model(tokens)[0, -1].argmax())
        kind = "memorised" if i % 3 else "carried"
        found.append(Case(tuple(tokens[0].tolist()), said if i != 5 else said - 1, "2D+" if i < 4 else "2D-", kind))
    return found


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama")


@pytest.fixture(scope="module")
def found(model):
    return head_accuracy(model, cases_of(model), progress=False)


def test_every_accuracy_is_that_of_a_model_with_the_head_removed(model, found):
    cases = cases_of(model)
    assert len(found.frame) == 13 * 4
    for row in found.frame.to_dict("records"):
        mine = [case for case in cases if (case.group, case.kind) == (row["group"], row["kind"])]
        if row["head"] == "untouched":
            right = answered(model, mine)
        else:
            with edit(model, [(row["layer"], row["index"])]):
                right = answered(model, mine)
        assert row["cases"] == len(mine) and row["accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_tables_weigh_cases_alike():
    groups = [("1D+", "memorised", 10), ("1D+", "carried", 30), ("1D-", "memorised", 60)]
    heads = {("untouched", -1, -1): (1.0, 0.8, 0.5), ("L0H1", 0, 1): (0.5, 0.2, 0.5), ("L2H0", 2, 0): (1.0, 0.8, 0.1)}
    rows = [
        (*group, *head, accuracy)
        for head, values in heads.items()
        for group, accuracy in zip(groups, values, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["group", "kind", "cases", "head", "layer", "index", "accuracy"])
    found = HeadAccuracy(frame)
    wide = found.by_group()
    assert wide.loc["1D+", "untouched"] == pytest.approx(34 / 40) and wide.loc["all", "untouched"] == pytest.approx(
        0.64
    )
    assert wide.loc["1D+", "L0H1"] == pytest.approx(11 / 40) and wide.loc["all", "L2H0"] == pytest.approx(0.40)
    assert found.decrease().loc["1D+", "L0H1"] == pytest.approx((34 - 11) / 34)
    assert found.decrease_by_kind().loc["1D+ carried", "L0H1"] == pytest.approx(0.75)
    assert found.decrease_by_kind().loc["1D+ memorised", "L2H0"] == pytest.approx(0)
    assert found.ranked() == [(2, 0), (0, 1)] and found.ranked("1D+") == [(0, 1), (2, 0)]
    assert "L2H0" in str(found) and "64.0" in str(found)


def test_a_group_never_answered_has_no_decrease():
    row = {"group": "3D*", "kind": "", "layer": -1, "index": -1, "cases": 2, "accuracy": 0.0}
    found = HeadAccuracy(pd.DataFrame([row | {"head": "untouched"}, row | {"head": "L0H0", "layer": 0, "index": 0}]))
    assert found.decrease().isna().all(axis=None) and found.decrease_by_kind().empty


def test_cases_of_one_group_are_ranked_too(model):
    found = head_accuracy(model, [case for case in cases_of(model) if case.group == "2D+"], progress=False)
    wide = found.by_group()
    assert wide.index.tolist() == ["2D+"]
    layer, head = found.ranked()[0]
    assert wide.loc["2D+", f"L{layer}H{head}"] == wide.loc["2D+"].drop("untouched").min()
    assert f"L{layer}H{head}" in str(found)


def test_memory_and_the_heads_asked_for_change_no_accuracy(model, found):
    few = head_accuracy(model, cases_of(model), heads=[(1, 2)], max_bytes=1, progress=False)
    expected = found.frame[found.frame["head"].isin(["untouched", "L1H2"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(few.frame, expected)


def test_bad_input_is_named(model, found):
    with pytest.raises(ValueError, match="cases is empty"):
        head_accuracy(model, [])
    with pytest.raises(IndexError, match="must lie between 0 and 2, got 9"):
        head_accuracy(model, cases_of(model), heads=[(9, 0)])
    for method in (found.ranked, found.does_task):
        with pytest.raises(ValueError, match="group must be one of 2D\\+, 2D-, all, got '1D'"):
            method("1D")


def test_no_head_is_named_of_a_task_the_model_does_not_do(model):
    """One of six answers is right, where always giving the commonest would make four."""
    done = [case for case in cases_of(model) if case.group == "2D+"]
    wrong = (done[0].answer + 1) % architectures.VOCAB
    answers = [wrong, wrong, wrong, wrong, (wrong + 1) % architectures.VOCAB, done[1].answer]
    undone = [Case(done[i % 2].tokens, answer, "3D*") for i, answer in enumerate(answers)]
    alone = head_accuracy(model, undone, heads=[(0, 1), (1, 2)], progress=False)
    assert alone.chance == {"3D*": pytest.approx(4 / 6), "all": pytest.approx(4 / 6)} and not alone.does_task()
    with pytest.raises(
        ValueError, match=r"does not do these cases.*: 16\.7 % \[0\.0, 50\.0\] of 6, by chance 66\.7 %"
    ) as told:
        alone.ranked()
    assert str(told.value).count("\n") <= 2
    assert "no head is named" in str(alone) and "L0H1" not in str(alone) and "16.7 %" in str(alone)

    both = head_accuracy(model, [*done * 4, *undone], heads=[(0, 1), (1, 2)], progress=False)
    assert both.does_task() and both.does_task("2D+") and not both.does_task("3D*")
    assert "L0H1" in str(both) and "the model does not do 3D*: 16.7 %" in str(both)
    with pytest.raises(ValueError, match=r"does not do 3D\*, so no head is named"):
        both.ranked("3D*")
