from tl_neuron_attr.results.table import Table


def test_cells_and_captions_are_escaped_in_html():
    html = Table(("<b>",), [("<script>alert(1)</script>",)], "a < b").html()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "<caption>a &lt; b</caption>" in html


def test_a_sign_is_shown_where_any_value_is_negative():
    assert "+1.0000" in str(Table(("x",), [(1.0,), (-2.0,)]))
    assert "+" not in str(Table(("x",), [(1.0,), (2.0,)]))


def test_empty_cells_stay_empty():
    assert "None" not in str(Table(("x", "y"), [(1, None)]))
