"""The command line as a user meets it: output, files, exit codes, messages."""

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr.cli.main import commands, main
from tl_neuron_attr.model import loading

PROMPT = ("--prompt", "Tim Duncan plays the sport of")


@pytest.mark.parametrize(
    "args, message",
    [
        (("neurons", "-k", "0"), "Invalid value for '-k': 0 is not in the range x>=1"),
        (("cna", "--shallow", "x"), "Invalid value for '--shallow': 'x' is not a valid integer"),
        (("neurons", "--formt", "csv"), "No such option"),
        (("neuron",), "No such command 'neuron'"),
        (("query", "a", "b"), "unexpected extra argument"),
    ],
)
def test_nonsense_is_named_and_2(run, args, message):
    code, out, err = run(*args)
    assert (code, out) == (2, "") and message in err and "--help" in err


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
    assert run("neurons", *PROMPT) == (130, "", "tl-neuron-attr: stopped; nothing was written; run it again\n")


def test_debug_shows_the_error_itself():
    with pytest.raises(ValueError, match="must be one token"):
        main(("--debug", "neurons", *PROMPT, "--target", "a b"))


def test_nonsense_exits_with_2():
    for args in ((), ("dance",), ("neurons",), ("reproduce", "gpt5")):
        assert main(args) == 2


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "tl_neuron_attr", "neurons", *PROMPT, "-k", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "rank" in done.stdout and done.stderr == ""


def command_line(*args, **settings):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tl_neuron_attr", *args], capture_output=True, text=True, check=False, **settings
    )


def test_help_comes_without_torch_in_under_a_third_of_a_second():
    loaded = "import sys; from tl_neuron_attr.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for args in (["--help"], ["neurons", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", loaded, *args], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("\nFalse\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert command_line("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.3  # the processor's: a quiet machine


def test_a_place_that_cannot_be_written_is_refused_without_torch(tmp_path):
    (tmp_path / "file").write_text("kept")
    loaded = "import sys; from tl_neuron_attr.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    inside = str(tmp_path / "file" / "page.html")
    for args in (("trace", *PROMPT, "--html"), ("icl", "--out"), ("study", "--out"), ("catalogue", __file__, "--out")):
        done = subprocess.run([sys.executable, "-c", loaded, *args, inside], capture_output=True, text=True, check=True)
        assert done.stdout == "1 False\n" and "cannot be made a folder" in done.stderr


def test_a_file_that_is_not_there_is_refused_without_torch():
    loaded = "import sys; from tl_neuron_attr.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for args in (
        ("study", "--out", "o", "--prompts"), ("neurons", "--prompts"), ("query", "--prompt-file"), ("icl", "--data"),
        ("catalogue", "--out", "o", "--corpus"), ("catalogue", "--out", "o", __file__),
    ):  # fmt: skip
        line = [sys.executable, "-c", loaded, *args, "/no/such.csv"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert done.stdout == "2 False\n" and "no file at /no/such.csv" in done.stderr


def test_version_names_what_the_numbers_depend_on(run):
    code, out, _ = run("--version")
    assert code == 0 and out.startswith(
        f"tl-neuron-attr {tna.__version__} (torch {torch.__version__}, transformer_lens "
    )


@pytest.mark.parametrize("name", sorted(commands().commands))
def test_help_shows_every_default_and_two_examples(run, name):
    code, out, _ = run(name, "--help")
    examples = [line for line in out.split("Examples:")[1].splitlines() if "tl-neuron-attr" in line]
    assert code == 0 and len(examples) >= 2
    for option in commands().commands[name].params:
        if isinstance(option, click.Option) and not option.is_flag and not option.required:
            shown = option.get_help_record(click.Context(commands().commands[name]))
            silent = option.opts[-1] in ("--prompt", "--prompt-file", "--prompts")
            assert silent or "default: " in shown[1], f"{option.opts} has no default in its help"
        assert isinstance(option, click.Argument) or option.help


EXAMPLES = [
    (name, line[line.index("tl-neuron-attr") :])
    for name, command in commands().commands.items()
    for line in str(command.epilog).splitlines()
    if "tl-neuron-attr" in line
]


@pytest.mark.parametrize("name, line", EXAMPLES)
def test_every_example_is_a_command_that_is_understood(name, line, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)  # the files that examples read are the user's
    words = shlex.split(re.split(r" > |\)\"$", line)[0])
    assert words[1] == name
    commands().commands[name].make_context(name, words[2:])


def test_a_pipe_that_closes_is_quiet():
    """``| head -1``: the first line is read, then nobody listens, and more is written than a pipe holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tl_neuron_attr", "neurons", *PROMPT, "-k", "2000", "--format", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b"rank,neuron,")
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0


def test_cuda_without_cuda_is_one_line(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = run("neurons", *PROMPT, "--device", "cuda")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(
        "tl-neuron-attr: ValueError: --device='cuda' cannot be used: torch finds no CUDA device here; "
    )
