"""The likeliest next token of each case against plain runs."""

import pytest
import torch

from tests import architectures
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case


@torch.no_grad()
def test_answered_is_the_likeliest_token_case_by_case():
    model = architectures.build("gpt2")
    prompts = [(1, 2, 3), (4, 5), (6, 7, 8), (9,)]
    best = [int(model(torch.tensor([p]))[0, -1].argmax()) for p in prompts]
    cases = [Case(p, token) for p, token in zip(prompts, best, strict=True)]
    wrong = Case((4, 5), (best[1] + 1) % architectures.VOCAB)
    assert cna.answered(model, [*cases, wrong], batch_size=1) == [True] * 4 + [False]
    with pytest.raises(ValueError, match="cases is empty"):
        cna.answered(model, [])
