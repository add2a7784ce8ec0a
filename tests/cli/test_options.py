"""Options that several commands share."""

import io
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_neuron_attr.cli.options import prediction, ready_folder, ready_page, warn_of_spelling

PROMPT = ("--prompt", "Tim Duncan plays the sport of")


def test_the_prediction_is_the_likeliest_token_at_its_position():
    logits = torch.zeros(1, 3, 5)
    logits[0, 0, 4], logits[0, 2, 1] = 1, 1
    assert [prediction(logits, pos) for pos in (0, 2, -1, -3)] == [4, 1, 1, 4]
    for pos in (3, -4):
        with pytest.raises(IndexError, match=f"--pos must lie between -3 and 2 for this prompt, got {pos}"):
            prediction(logits, pos)


def test_a_folder_is_made_and_a_file_in_its_way_is_kept(tmp_path):
    assert ready_page(tmp_path / "a" / "b" / "page.html").parent.is_dir()
    with pytest.raises(IsADirectoryError, match="the page needs a file name"):
        ready_page(tmp_path / "a")
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="cannot be made a folder"):
            ready_folder(path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_dash_reads_the_prompt_from_stdin(run, monkeypatch):
    expected = run("neurons", *PROMPT, "-k", "3")
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT[1] + "\n"))
    assert run("neurons", "--prompt", "-", "-k", "3") == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert run("neurons", "--prompt", "-")[0::2] == (1, "tl-neuron-attr: ValueError: standard input is empty\n")


@pytest.mark.parametrize("given, far", [("b", "Ġb"), (" b", "b")])
def test_a_far_likelier_spelling_is_named(capsys, given, far):
    vocabulary = {"b": 0, "Ġb": 1, "<unk>": 2}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {"Ġ": 3}, merges=[("Ġ", "b")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    logits = torch.zeros(1, 2, 4)
    logits[0, -1, vocabulary[far]] = 3  # e^3, some twenty times
    warn_of_spelling(model, logits, Namespace(target=given, pos=-1))
    err = capsys.readouterr().err
    assert f"--target {given!r} has probability 0.043" in err and len(err.splitlines()) == 1
    for kept in (Namespace(target=given, pos=0), Namespace(target=None, pos=-1), Namespace(target="b b", pos=-1)):
        warn_of_spelling(model, logits, kept)
    assert capsys.readouterr().err == ""
