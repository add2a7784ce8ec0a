"""Whole answers against text the model writes by itself, token by token."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case


@torch.no_grad()
def written(model, prompt: tuple[int, ...], n: int) -> tuple[int, ...]:
    """What the model writes, the likeliest token each time."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tuple(tokens[len(prompt) :])


def cases_of(prompt: tuple[int, ...], answer: tuple[int, ...], group: str) -> list[Case]:
    return [Case(prompt + answer[:i], token, group, given=i) for i, token in enumerate(answer)]


def test_answers_are_whole_if_the_model_writes_them():
    model = architectures.build("llama")
    prompts = [(1, 2, 3), (4, 5), (6, 7, 8), (2, 2)]
    texts = [written(model, prompt, 3) for prompt in prompts]
    wrong_end = (*texts[1][:2], (texts[1][2] + 1) % architectures.VOCAB)
    wrong_start = ((texts[2][0] + 1) % architectures.VOCAB, *texts[2][1:])
    answers = [texts[0], wrong_end, wrong_start, texts[3]]
    cases = [
        case for i, (p, a) in enumerate(zip(prompts, answers, strict=True)) for case in cases_of(p, a, "ab"[i == 3])
    ]
    found = cna.whole_answers(model, list(reversed(cases)), batch_size=2).frame.sort_values("group", kind="stable")
    by_group = {group: rows.iloc[::-1] for group, rows in found.groupby("group")}
    assert by_group["a"]["first"].tolist() == [True, True, False]
    assert by_group["a"]["whole"].tolist() == [True, False, False]
    assert by_group["b"]["whole"].tolist() == [True] and set(found["tokens"]) == {3}
    summary = cna.whole_answers(model, cases).summary().set_index("group")
    assert summary.loc["a", "whole"] == pytest.approx(1 / 3) and summary.loc["a", "first"] == pytest.approx(2 / 3)


def test_answers_that_begin_alike_are_counted():
    model = architectures.build("gpt2")
    alike = cases_of((1, 2), (7, 3), "a") + cases_of((1, 3), (7, 4), "a") + cases_of((1, 4), (8, 4), "a")
    other = cases_of((1, 2), (7, 9), "b") + cases_of((1, 5), (6,), "b") + cases_of((1, 6), (6,), "b")
    found = cna.whole_answers(model, alike + other)
    assert found.frame["shared"].tolist() == [True, True, False, False, False, False]
    assert found.summary()["shared"].tolist() == [2, 0]
    assert "begin as another" in str(found)
