"""Commands on a file of prompts, ``--prompts``."""

import json

PROMPT = ("--prompt", "Tim Duncan plays the sport of")


def test_neurons_of_a_file_are_those_of_each_prompt_alone(run, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "3 + 5 ="}\n{"prompt": "Tim Duncan plays the sport of", "target": "golf", "type": "sport"}\n'
        '{"prompt": ""}\n{"promt": "3"}\n{'
    )
    code, out, err = run("neurons", "--prompts", str(path), "-k", "3", "--format", "json")
    found = json.loads(out)
    alone = [
        json.loads(run("neurons", *prompt, "-k", "3", "--format", "json")[1])
        for prompt in (("3 + 5 =",), (*PROMPT, "--target", "golf"))
    ]
    assert code == 0 and found == alone
    assert [line.split(", ", 1)[1] for line in err.splitlines()] == [
        "line 3: field 'prompt' must be a text that is not empty, got ''",
        "line 4: field 'prompt' is missing",
        "line 5: not JSON (Expecting property name enclosed in double quotes at column 2)",
    ]
    lines = run("neurons", "--prompts", str(path), "-k", "3", "--format", "csv", "-q")[1].splitlines()
    assert len(lines) == 1 + 6 and sum("rank,neuron" in line for line in lines) == 1
    table = run("neurons", "--prompts", str(path), "-k", "3", "-q")
    assert table[2] == "" and [line for line in table[1].splitlines() if " after " in line][1].startswith('"golf" (p ')


def test_a_prompt_and_a_file_of_prompts_are_too_much(run, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "3 + 5 ="}')
    code, out, err = run("neurons", "3 + 5 =", "--prompts", str(tmp_path / "prompts.jsonl"))
    assert (code, out) == (2, "") and "give --prompts or a prompt, not both" in err
