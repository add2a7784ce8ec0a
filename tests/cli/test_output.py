"""What commands print and write."""

import io
import json
import re
import sys
from argparse import Namespace

import pandas as pd
import pytest
from markupsafe import Markup

from tl_neuron_attr.cli import output
from tl_neuron_attr.results.table import Table
from tl_neuron_attr.vis.view import View

TABLE = Table(("neuron", "score", "promotes"), [("L4N7", 1.5, "Paris | " * 30), ("L3N1", -0.5, "")], "in nats")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown_in_terminal(monkeypatch, **environment):
    for name in ("NO_COLOR", "COLUMNS", "TERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    output.show(TABLE)
    return sys.stdout.getvalue()


def test_a_file_or_pipe_gets_the_whole_table(capsys):
    output.show(TABLE)
    assert capsys.readouterr().out == f"{TABLE}\n"


@pytest.mark.parametrize("width", [50, 90])
def test_in_a_terminal_only_text_gives_way(monkeypatch, width):
    plain = re.sub(r"\x1b\[\d+m", "", shown_in_terminal(monkeypatch, COLUMNS=str(width), NO_COLOR="1"))
    lines = plain.splitlines()
    assert max(map(len, lines)) <= width and any("+1.5000" in line and "…" in line for line in lines)
    assert lines[0].strip() == "in nats"


def test_raising_is_blue_and_lowering_red_unless_no_color_is_set(monkeypatch):
    coloured = shown_in_terminal(monkeypatch, COLUMNS="80")
    assert "\x1b[34m" in coloured.split("+1.5000")[0][-12:] and "\x1b[31m" in coloured.split("-0.5000")[0][-12:]
    assert "\x1b[3" not in shown_in_terminal(monkeypatch, COLUMNS="80", NO_COLOR="1")


def test_csv_joins_lists_and_repeats_what_is_the_same(capsys):
    output.print_csv(pd.DataFrame({"neuron": ["L1N2"], "promoted": [["a", "b"]]}), {"prompt": 'say "x"'})
    assert capsys.readouterr().out == 'neuron,promoted,prompt\nL1N2,a | b,"say ""x"""\n'


def test_json_has_null_for_none(capsys):
    frame = pd.DataFrame({"head": pd.array([1, None], dtype="Int64"), "score": [0.1, 2.0]})
    output.print_json({"rows": output.rows_of(frame), "contrast": None})
    found = json.loads(capsys.readouterr().out)
    assert found == {"rows": [{"head": 1, "score": 0.1}, {"head": None, "score": 2.0}], "contrast": None}


def test_a_page_is_written_named_and_opened_where_asked(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("click.launch", opened.append)
    page, view = tmp_path / "page.html", View(Markup("<p>x</p>"), "x")
    output.write_page(Namespace(html=page, quiet=False, open=False), view)
    assert capsys.readouterr().out == f"wrote {page}\n" and page.exists() and opened == []
    output.write_page(Namespace(html=page, quiet=True, open=True), view)
    assert capsys.readouterr().out == "" and opened == [str(page)]


def test_a_folder_is_made_and_a_file_in_its_way_is_kept(tmp_path):
    output.ready_page(tmp_path / "a" / "b" / "page.html")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(IsADirectoryError, match="the page needs a file name"):
        output.ready_page(tmp_path / "a")
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="cannot be made a folder"):
            output.ready_folder(path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_note_is_on_stderr_unless_quiet(capsys):
    output.note(Namespace(quiet=True), "left out")
    output.note(Namespace(quiet=False), "left out")
    assert capsys.readouterr() == ("", "left out\n")
