"""The two commands as a user meets them: output, files, exit codes, messages."""

import json

import pytest

import tl_neuron_attr as tna
from tl_neuron_attr import cna, demo
from tl_neuron_attr.cli.main import main

PROMPT = ("--prompt", "6 * 7 =")


def test_cna_prints_the_chain_and_writes_its_page(run, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run("cna", *PROMPT, "--html", str(page), "-k", "12", "--shallow", "5")
    chain = cna.logic_chain(demo.load(), "6 * 7 =", k=12, shallow=5)
    assert code == 0 and out == f"{chain}\nwrote {page}\n"
    text = page.read_text(encoding="utf-8")
    assert "From the tokens to" in text and chain.prediction_enhancing.root_neuron.labels[0] in text


def test_cna_takes_a_head_and_a_target(run, tmp_path):
    page = ("--html", str(tmp_path / "page.html"))
    code, out, _ = run("cna", *PROMPT, *page, "--head", "L3H2", "--target", "42")
    assert code == 0 and "with L3H2 zeroed" in out
    assert run("cna", *PROMPT, *page, "--head", "3,2") == (code, out, "")


def test_heads_prints_all_heads_in_three_formats(run, tmp_path):
    effects = tna.head_effects(demo.load(), "6 * 7 =", "42", progress=False)
    code, out, _ = run("heads", *PROMPT)
    assert code == 0 and out == f"{effects}\n"
    _, text, _ = run("heads", *PROMPT, "--format", "json")
    rows = json.loads(text)
    assert [(row["layer"], row["head"]) for row in rows] == effects.ranked()
    _, csv, _ = run("heads", *PROMPT, "--format", "csv")
    assert len(csv.splitlines()) == 1 + len(rows) and csv.splitlines()[0] == "layer,head,prob,log_prob,drop"
    page = tmp_path / "heads.html"
    assert run("heads", *PROMPT, "--html", str(page))[1] == out and "<svg" in page.read_text(encoding="utf-8")


def test_heads_at_another_position(run):
    options = ("--target", "42", "--format", "json")
    there = json.loads(run("heads", "--prompt", "6 * 7 = 42", "--pos", "-2", *options)[1])
    here = json.loads(run("heads", *PROMPT, *options)[1])
    assert there[0]["drop"] == pytest.approx(here[0]["drop"], abs=1e-3) and there[0]["head"] == here[0]["head"]
    assert json.loads(run("heads", "--prompt", "6 * 7 = 42", *options)[1])[0]["log_prob"] < -1


@pytest.mark.parametrize(
    "command, args, message",
    [
        ("cna", ("--target", "a b"), "must be one token, it is"),
        ("cna", ("--head", "9,0"), "must lie between 0 and 4, got 9"),
        ("cna", ("--shallow", "0"), "k must be at least 1"),
        ("heads", ("--pos", "99"), "--pos must lie between -5 and 4"),
        ("heads", ("--model", "/no/such/folder"), "could not be loaded"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(run, tmp_path, command, args, message):
    page = tmp_path / "page.html"
    code, out, err = run(command, *PROMPT, *args, "--html", str(page))
    assert code == 1 and out == "" and message in err and len(err.splitlines()) == 1 and not page.exists()


def test_a_head_that_is_none_is_a_usage_error(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["cna", *PROMPT, "--head", "three"])
    assert stopped.value.code == 2 and "invalid head value: 'three'" in capsys.readouterr().err
