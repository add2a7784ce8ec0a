import re

from tl_neuron_attr.results.table import Table


def test_cells_and_captions_are_escaped_in_html():
    html = Table(("<b>",), [("<script>alert(1)</script>",)], "a < b").html()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert ">a &lt; b</caption>" in html


def test_in_html_text_stands_left_numbers_right_and_scores_have_bars():
    html = Table(("neuron", "score"), [("L1N2", 2.0), ("L3N4", -0.5)]).html()
    cells = re.findall(r'<t[hd] style="text-align:(\w+)', html)
    assert cells == ["left", "right"] * 3
    bars = re.findall(r"background:linear-gradient\(to left,([^ ]+) (\d+)%,transparent (\d+)%\)", html)
    (blue, *whole), (red, *quarter) = bars
    assert blue != red and (whole, quarter) == (["100"] * 2, ["25"] * 2) and "<caption" not in html


def test_a_sign_is_shown_where_any_value_is_negative():
    assert "+1.0000" in str(Table(("x",), [(1.0,), (-2.0,)]))
    assert "+" not in str(Table(("x",), [(1.0,), (2.0,)]))


def test_empty_cells_stay_empty():
    assert "None" not in str(Table(("x", "y"), [(1, None)]))
