import codecs
import csv
import json

import pytest

from tl_neuron_attr.results.rows import read_rows, unwritable

ROW = {"text": "café", "label": "1"}


def written(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


@pytest.mark.parametrize("name, text", [("a.csv", "text,label\ncafé,1\n"), ("a.jsonl", json.dumps(ROW) + "\n")])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_and_line_ends_are_no_part_of_the_text(tmp_path, name, text, mark, ends):
    path = written(tmp_path, name, mark + text.replace("\n", ends).encode())
    assert [row for _, row in read_rows(path)] == [ROW]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    "data, place",
    [
        ("text,label\nx,1\ncafé,1".encode("cp1252"), "line 3: byte 0xE9 is not UTF-8: save the file as UTF-8"),
        (codecs.BOM_UTF8 + b"a\n\xff", "line 2: byte 0xFF"),
        ("text".encode("utf-16"), "line 1: byte 0xFF"),
    ],
)
def test_what_is_not_utf_8_is_refused_and_never_replaced(tmp_path, name, data, place):
    path = written(tmp_path, name, data)
    with pytest.raises(ValueError, match=f"{path}, {place}"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "line, problem",
    [
        ("[" * 100_000, "not JSON (nested too deeply)"),
        ('{"n": ' + "7" * 5000 + "}", "not JSON (Exceeds the limit (4300 digits) for integer string conversion"),
        ('{"n": NaN}', "not JSON (NaN is no value of JSON)"),
        ('{"n": 1, "n": 2}', "not JSON (field 'n' is given twice)"),
        ('{"n"', "not JSON (Expecting ':' delimiter at column 5)"),
        ("7", "not an object but int"),
    ],
)
def test_a_bad_line_of_json_loses_that_line_only(tmp_path, line, problem):
    good = json.dumps(ROW)
    path = written(tmp_path, "a.jsonl", f"{good}\n\n{line}\n{good}".encode())
    (first, a), (bad, said), (last, b) = read_rows(path)
    assert (first, bad, last) == (1, 3, 4) and a == b == ROW
    assert said.startswith(problem)


def test_a_line_of_json_ends_at_line_breaks_alone(tmp_path):
    text = "one\u2028two\x0bthree\x85"
    path = written(tmp_path, "a.jsonl", json.dumps({"text": text}, ensure_ascii=False).encode())
    assert list(read_rows(path)) == [(1, {"text": text})]


def test_long_fields_are_read_and_the_limit_is_put_back(tmp_path):
    before, long = csv.field_size_limit(), "x" * 200_000
    path = written(tmp_path, "a.csv", f"text,label\n{long},1\n".encode())
    assert [row for _, row in read_rows(path)] == [{"text": long, "label": "1"}]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "body, problem",
    [
        ("a,b,c", "3 fields in a table of 2 columns"),
        ('"open,1\nx,2', "not CSV (unexpected end of data)"),
        ('"a"b,1', "not CSV ("),
    ],
)
def test_a_bad_row_of_csv_is_named(tmp_path, body, problem):
    path = written(tmp_path, "a.CSV", f"text,label\nfine,1\n{body}\n".encode())
    (_, good), (_, bad) = read_rows(path)
    assert good == {"text": "fine", "label": "1"} and bad.startswith(problem)


def test_missing_fields_are_none_and_twin_columns_are_refused(tmp_path):
    assert list(read_rows(written(tmp_path, "a.csv", b"a,b\n1\n"))) == [(2, {"a": "1", "b": None})]
    assert list(read_rows(written(tmp_path, "b.csv", b""))) == []
    with pytest.raises(ValueError, match="column 'a' is named twice"):
        list(read_rows(written(tmp_path, "c.csv", b"a,b,a\n1,2,3\n")))
    with pytest.raises(FileNotFoundError, match="no file at"):
        list(read_rows(tmp_path / "absent.csv"))


def test_half_characters_are_found():
    assert "half a character" in unwritable("a\udc80") and not unwritable("a\U0001f600")
