"""Which prediction a command explains, and its first line."""

import io
import sys
from argparse import Namespace
from types import SimpleNamespace

import click
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_neuron_attr import demo
from tl_neuron_attr.cli.explained import Explained, prompt_of, read_prediction
from tl_neuron_attr.model.tokens import prompt_ids

PROMPT = "Tim Duncan plays the sport of"


def given(**options):
    return Namespace(**{"text": None, "prompt": None, "prompt_file": None, "quiet": False, "pos": -1} | options)


def explained(text, target=None, **options):
    model = demo.load()
    tokens = prompt_ids(model, text)[None]
    logits = model(tokens)
    return logits[0].double().softmax(-1), read_prediction(model, text, tokens, logits, target, given(**options))


def test_the_first_line_says_target_probability_rank_and_prompt():
    p, (token, found) = explained("3 + 5 =")
    assert token == p[-1].argmax() and found.rank == 1
    assert str(found) == f'"8" (p {p[-1].max():.4g}, rank 1) after "3 + 5 ="'


def test_a_target_that_is_not_the_first_choice_has_its_rank_and_the_first():
    p, (token, found) = explained("3 + 5 =", "9")
    above = [i for i in range(p.shape[1]) if p[-1, i] > p[-1, token]]
    assert found.rank == 1 + len(above) > 1
    assert str(found).startswith(f'"9" (p {p[-1, token]:.4g}, rank {found.rank}; first is "8", p {p[-1].max():.4g}) ')


def test_position_and_contrast_are_named():
    p, (token, found) = explained("3 + 5 =", pos=-2, contrast="9")
    assert (token, found.pos) == (p[-2].argmax(), 3)
    assert str(found).endswith(' against "9" after "<bos> 3 + 5"')
    assert found.columns()["contrast"] == "9" and found.columns()["prompt"] == "3 + 5 ="


@pytest.mark.parametrize("pos", [5, -6])
def test_a_position_that_does_not_exist_is_refused(pos):
    with pytest.raises(IndexError, match=f"--pos must lie between -5 and 4 for this prompt, got {pos}"):
        explained("3 + 5 =", pos=pos)


def test_a_long_prompt_shows_its_end():
    line = str(Explained("x" * 200 + " end", "a", 0.5, 1, 9, None, "m", "x" * 200 + " end", ("a", 0.5)))
    assert line.endswith('xxx end"') and len(line) < 110


def test_a_prompt_is_given_once(tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text(f"{PROMPT}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPT}\n"))
    for options in ({"text": PROMPT}, {"prompt": PROMPT}, {"prompt_file": tmp_path / "prompt.txt"}, {"text": "-"}):
        assert prompt_of(given(**options)) == PROMPT
    with pytest.raises(click.UsageError, match="got none"):
        prompt_of(given())
    with pytest.raises(click.UsageError, match="got PROMPT and --prompt"):
        prompt_of(given(text="a", prompt="a"))


def test_an_empty_prompt_is_named(tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    for options, name in (
        ({"text": ""}, "PROMPT"),
        ({"prompt": "-"}, "standard input"),
        ({"prompt_file": tmp_path / "prompt.txt"}, "prompt.txt"),
    ):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            prompt_of(given(**options))


@pytest.mark.parametrize("target, far", [("b", "Ġb"), (" b", "b")])
def test_a_far_likelier_spelling_is_named(capsys, target, far):
    vocabulary = {"b": 0, "Ġb": 1, "<unk>": 2}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {"Ġ": 3}, merges=[("Ġ", "b")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    model = SimpleNamespace(tokenizer=wrapped, cfg=SimpleNamespace(model_name="m"))
    logits = torch.zeros(1, 2, 4)
    logits[0, -1, vocabulary[far]] = 3  # e^3, some twenty times
    tokens = torch.zeros(1, 2, dtype=torch.long)
    read_prediction(model, "x", tokens, logits, target, given())
    err = capsys.readouterr().err
    assert f"--target {target!r} has probability 0.043" in err and len(err.splitlines()) == 1
    for kept, text in ((given(pos=0), target), (given(), None), (given(quiet=True), target)):
        read_prediction(model, "x", tokens, logits, text, kept)
    assert capsys.readouterr().err == ""
