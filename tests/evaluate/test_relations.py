"""Relation files as users have them, and the package's own facts."""

import json

import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.evaluate import StudyPrompt, first_tokens, read_relations, real_facts, select

CAPITALS = {
    "name": "country capital city",
    "prompt_templates": ["What is the capital of {}? It is", "{}'s capital is"],
    "prompt_templates_zs": ["The capital of {} is", "The capital city of {} is"],
    "properties": {"relation_type": "factual"},
    "samples": [{"subject": "France", "object": "Paris"}, {"subject": " Japan ", "object": "Tokyo"}],
}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_each_sample_becomes_a_prompt_and_its_answer(tmp_path):
    path = write(tmp_path / "capitals.json", CAPITALS)
    found = read_relations(path)
    assert found.problems == ()
    assert found.prompts == (
        StudyPrompt("The capital of France is", " Paris", "country capital city"),
        StudyPrompt("The capital of Japan is", " Tokyo", "country capital city"),
    )
    every = read_relations(path, every_template=True, type="capital").prompts
    assert [p.prompt for p in every[:2]] == ["The capital of France is", "The capital city of France is"]
    assert {p.type for p in every} == {"capital"} and len(every) == 4


def test_a_folder_is_all_its_files_and_a_file_may_hold_several_relations(tmp_path):
    write(tmp_path / "a.json", CAPITALS)
    write(tmp_path / "b.json", [CAPITALS | {"name": "one"}, CAPITALS | {"name": "two"}])
    assert len(read_relations(tmp_path).prompts) == 6


@pytest.mark.parametrize(
    "sample, problem",
    [
        ({"subject": "Peru"}, "field 'object' is missing"),
        ({"subject": "Peru", "object": ""}, "field 'object' must be a text that is not empty, got ''"),
        ({"subject": 5, "object": "Lima"}, "field 'subject' must be a text that is not empty, got 5"),
        ("Peru", "not an object but 'Peru'"),
        ({"subject": "half \ud83d", "object": "x"}, "field 'subject': 'half \\\\ud83d' holds half a character"),
        ({"subject": "France", "object": "Lyon"}, "'France' has the answer 'Paris' too"),
    ],
)
def test_a_bad_sample_is_named_and_the_others_are_read(tmp_path, sample, problem):
    path = write(tmp_path / "r.json", CAPITALS | {"samples": [*CAPITALS["samples"], sample]})
    found = read_relations(path)
    assert len(found.prompts) == 2
    assert found.problems == (f"{path}, 'country capital city', sample 2: {problem}".replace("\\\\", "\\"),)


@pytest.mark.parametrize(
    "value, message",
    [
        (CAPITALS | {"prompt_templates": [], "prompt_templates_zs": []}, "has no templates"),
        ({k: v for k, v in CAPITALS.items() if "templates" not in k}, "has no templates"),
        (CAPITALS | {"prompt_templates_zs": "The capital of {} is"}, "has no templates"),
        (
            CAPITALS | {"prompt_templates_zs": ["The capital is"]},
            r"a template must hold \{\} once, got 'The capital is'",
        ),
        (CAPITALS | {"prompt_templates_zs": ["{} and {}"]}, r"a template must hold \{\} once"),
        (CAPITALS | {"name": ""}, "field 'name' must be a text, got ''"),
        (CAPITALS | {"samples": {}}, "field 'samples' must be a list"),
        (CAPITALS | {"samples": []}, "holds no sample that can be used; all are empty"),
        ("7", "holds 7, no object"),
        ("{", "not JSON"),
        ('{"name": "a", "name": "b"}', "field 'name' is given twice"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_no_relation_is_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=message) as error:
        read_relations(write(tmp_path / "r.json", value))
    assert "r.json" in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no relation file \(\*.json\) in"):
        read_relations(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_relations(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="type='': '' is empty"):
        read_relations(write(tmp_path / "r.json", CAPITALS), type="")


def test_answers_that_begin_with_one_token_are_left_out_and_counted():
    prompts = [
        StudyPrompt("a", " red car", "thing"),
        StudyPrompt("b", " red house", "thing"),
        StudyPrompt("c", " blue car", "thing"),
        StudyPrompt("d", " red car", "other"),
    ]
    found = first_tokens(demo.load(), prompts)
    assert [(p.prompt, p.target) for p in found.prompts] == [("c", " blue"), ("d", " red")]
    assert found.problems == tuple(f"prompts[{i}]: 2 answers of 'thing' begin with ' red'" for i in (0, 1))


def test_the_packages_facts_have_one_answer_each_and_are_of_the_papers_types():
    facts = real_facts()
    assert {"capital", "language", "country", "colour", "number", "month"} <= facts.keys()
    prompts = [p for group in facts.values() for p in group]
    assert len({(p.prompt, p.type) for p in prompts}) == len(prompts) > 500
    assert all(p.target.startswith(" ") and p.target.count(" ") == 1 for p in prompts)
    with pytest.raises(ValueError, match="types: 'colours' is none of capital"):
        real_facts(["colours"])


def test_prompts_of_relations_go_into_the_selection_rule():
    status = select(demo.load(), real_facts(["sport"])["sport"])["status"]
    assert (status == "kept").any()
