"""How a command is made, and what goes wrong in one."""

import click
import pytest

from tl_neuron_attr.cli.options import command, in_shell_words, option, position_option, prediction_options


@pytest.mark.parametrize(
    "message, expected",
    [
        ("k must be between 1 and 9, got 0", "-k must be between 1 and 9, got 0"),
        ("pass pos=, the last real one\nof each", "pass --pos, the last real one of each"),
        ("pos=7 is on padding: pos must lie before it", "--pos=7 is on padding: --pos must lie before it"),
        ("prompts 3 of model position; stack must be", "prompts 3 of model position; stack must be"),
        ("contrast='a b' must be one token", "--contrast='a b' must be one token"),
    ],
)
def test_a_message_names_options_and_is_one_line(message, expected):
    assert in_shell_words(message, prediction_options()) == expected


def run_with(error):
    def run(_):
        if error:
            raise error
        return 0

    made = command("do", run, summary="", options=[position_option()], examples=["do", "do it"])
    return made.main([], "do", standalone_mode=False)


def test_errors_are_one_line_and_1_and_usage_errors_pass(capsys):
    assert run_with(ValueError("pos must be\nanother")) == 1
    assert capsys.readouterr().err == "tl-neuron-attr: ValueError: --pos must be another\n"
    with pytest.raises(click.UsageError):
        run_with(click.UsageError("two prompts"))
    assert run_with(None) == 0


def test_a_reader_that_left_is_no_error(capsys):
    assert run_with(BrokenPipeError()) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_says_how_to_go_on(capsys):
    def stopped(_):
        raise KeyboardInterrupt

    made = command("do", stopped, summary="", options=[option("--out")], examples=[], when_stopped="see {out}")
    assert made.main(["--out", "here"], "do", standalone_mode=False) == 130
    assert capsys.readouterr().err == "tl-neuron-attr: stopped; see here\n"
