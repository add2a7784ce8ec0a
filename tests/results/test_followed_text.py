"""What the scores of a result are of: kept, cut by prompt, saved and checked."""

import json

import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr import demo
from tl_neuron_attr.results.followed_text import FollowedText

TWO = FollowedText(("3 + 5 =", "1 + 1 ="), ("8", "2"), ("9", "3"), (4, 4), "demo")


def test_one_prompt_is_a_line_and_several_a_number():
    assert str(TWO.of_prompt(1)) == '"2" against "3" after "1 + 1 ="' and str(TWO) == "2 prompts"
    assert str(FollowedText((), (' "x"',), (), (0,), "")) == '" \\"x\\""'


def test_of_a_long_prompt_the_end_is_shown():
    long = FollowedText(("Rome is old. " * 50 + "3 + 5 =",), ("8",), (), (4,), "demo")
    assert (
        str(long).startswith('"8" after "...') and str(long).endswith('Rome is old. 3 + 5 ="') and len(str(long)) < 100
    )


def test_groups_are_joined_as_one_batch():
    assert FollowedText.joined([TWO.of_prompt(0), TWO.of_prompt(1)]) == TWO


def test_json_brings_it_back():
    assert FollowedText.of_json("file", json.loads(json.dumps(TWO.as_json()))) == TWO


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model", 5, "text.followed.model' must be a string"),
        ("targets", "8", "text.followed.targets' must be a list of str"),
        ("positions", [4, True], "text.followed.positions' must be a list of int"),
        ("positions", [4], "text.followed.positions' must have one entry per prompt"),
        ("contrasts", ["9"], "text.followed.contrasts' must have one entry per prompt"),
        ("more", [], "text.followed' must have prompts"),
    ],
)
def test_a_malformed_header_is_refused_by_field(field, value, message):
    with pytest.raises(ValueError, match=message):
        FollowedText.of_json("file", json.loads(json.dumps(TWO.as_json())) | {field: value})


def test_value_and_query_neurons_say_what_they_are_of_also_from_a_file(tmp_path):
    model = demo.load()
    _, cache = model.run_with_cache("3 + 5 =")
    value = tna.value_neurons(cache, "8", 5, contrast="9")
    query = tna.query_neurons(cache, value, 5)
    assert str(value).startswith('"8" against "9" after "<bos> 3 + 5 =": scores in nats\n')
    for found in (value, query):
        found.save(tmp_path / "neurons")
        again = tna.Neurons.load(tmp_path / "neurons")
        assert again.text is not None and again.text.followed == FollowedText(
            ("<bos> 3 + 5 =",), ("8",), ("9",), (4,), "tl_neuron_attr demo"
        )


def test_a_batch_keeps_each_prompts_own():
    model = demo.load()
    _, cache = model.run_with_cache(["3 + 5 =", "1 + 1 ="])
    found = tna.value_neurons(cache, ["8", "2"], 5, pos=torch.tensor([-1, 3]))
    assert found.text is not None and found.text.followed is not None
    assert found.text.followed.positions == (4, 3)
    assert str(found[1]).startswith('"2" after "<bos> 1 + 1":')
