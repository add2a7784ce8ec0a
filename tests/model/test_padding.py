"""Padding found by what a tokenizer calls its tokens, and cut off by a mask."""

from types import SimpleNamespace

import pytest
import torch

from tl_neuron_attr.model.padding import real_spans, require_unpadded


def check(rows, pos=-1, pad=None, bos=None, eos=None):
    tokenizer = SimpleNamespace(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)
    ids = torch.tensor(rows)
    positions = torch.as_tensor(pos).expand(len(rows)) % ids.shape[1]
    require_unpadded(SimpleNamespace(tokenizer=tokenizer), ids, positions)


@pytest.mark.parametrize(
    "accepted",
    [
        {"rows": [[9, 5, 6], [9, 7, 8]], "pad": 9, "bos": 9, "eos": 9},
        {"rows": [[9, 5, 9, 6]], "pad": 9, "bos": 9, "eos": 9},
        {"rows": [[5, 6, 0], [5, 7, 0]], "pos": 1, "pad": 0, "bos": 1, "eos": 2},
        {"rows": [[5, 6, 9], [5, 7, 9]], "pos": 1, "pad": 9, "bos": 1, "eos": 9},
        {"rows": [[1, 6, 5], [1, 7, 8]], "pad": 9, "bos": 1, "eos": 9},
        {"rows": [[4, 5, 6], [5, 6, 7]]},
        {"rows": [[4, 4, 6]] * 3},
        {"rows": [[9]], "pad": 9, "bos": 9, "eos": 9},
    ],
)
def test_prompts_without_padding_are_accepted(accepted):
    check(**accepted)


@pytest.mark.parametrize(
    "refused, which",
    [
        ({"rows": [[0, 5, 6], [5, 6, 7]], "pad": 0, "bos": 1, "eos": 2}, [0]),
        ({"rows": [[9, 9, 6], [9, 7, 8]], "pad": 9, "bos": 9, "eos": 9}, [0]),
        ({"rows": [[5, 6, 7], [9, 7, 8]], "pad": 9, "bos": 9, "eos": 9}, [1]),
        ({"rows": [[5, 6, 9], [6, 7, 8]], "pad": 9, "bos": 1, "eos": 9}, [0]),
        ({"rows": [[5, 6, 9]], "pad": 9, "bos": 1, "eos": 9}, [0]),
        ({"rows": [[9, 1, 9, 5]], "pad": 9, "bos": 1, "eos": 9}, [0]),
        ({"rows": [[4, 4, 6], [5, 6, 7]]}, [0]),
        ({"rows": [[5, 6, 7], [5, 6, 0]]}, [1]),
        ({"rows": [[5, 6, 7], [5, 6, 9]], "eos": 9}, [1]),
    ],
)
def test_padding_and_what_looks_like_it_are_refused(refused, which):
    with pytest.raises(ValueError, match=rf"prompts \[{which[0]}\].*pass attention_mask="):
        check(**refused)


def test_a_model_without_a_tokenizer_is_looked_at_too():
    with pytest.raises(ValueError, match="no pad token"):
        require_unpadded(SimpleNamespace(tokenizer=None), torch.tensor([[3, 5, 5], [3, 4, 5]]), torch.tensor([2, 2]))


@pytest.mark.parametrize(
    "mask, pos, message",
    [
        ([[1, 1, 1]], [2, 2], r"attention_mask has shape \(1, 3\), tokens \(2, 3\)"),
        ([[1, 1, 2], [1, 1, 1]], [2, 2], "must hold 0 and 1 only"),
        ([[1, 0, 1], [1, 1, 1]], [2, 2], r"no tokens, or gaps, in prompts \[0\]"),
        ([[1, 1, 1], [0, 0, 0]], [2, 2], r"no tokens, or gaps, in prompts \[1\]"),
        ([[1, 1, 1], [1, 1, 0]], [2, 2], r"pos is on padding for prompts \[1\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, pos, message):
    with pytest.raises(ValueError, match=message):
        real_spans(torch.ones(2, 3, dtype=torch.long), torch.tensor(mask), torch.tensor(pos))
