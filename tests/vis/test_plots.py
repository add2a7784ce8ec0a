"""Charts say every value that they draw, as text that is never read as mathematics or markup."""

from xml.etree import ElementTree

import pytest

from tl_neuron_attr.vis.plots import COLOURS, grouped_bars, lines, matrix

SVG = "{http://www.w3.org/2000/svg}"


def titles(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def texts(svg):
    return ["".join(t.itertext()) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def fills(svg):
    """The colour of every mark that says a value."""
    marks = [mark for mark in ElementTree.fromstring(svg).iter(f"{SVG}g") if mark.find(f"{SVG}title") is not None]
    return [mark.find(f"{SVG}path").get("style").split("fill: ")[1][:7] for mark in marks]


def test_a_matrix_says_every_value_and_names_rows_and_columns():
    svg = matrix([[1.0, -2.0], [0.0, 0.5]], ["a", "b"], ["c", "$d$"], unit="nats", x="across", y="down")
    assert sorted(titles(svg)) == ["a, $d$: -2 nats", "a, c: +1 nats", "b, $d$: +0.5 nats", "b, c: +0 nats"]
    assert {"a", "b", "c", "$d$", "across", "down", "nats", "-2", "0.5"} <= set(texts(svg))


def test_lines_and_bars_are_labelled():
    assert {"x", "y", "one", "two"} <= set(texts(lines({"one": ([1, 2], [3, 4]), "two": ([1], [2])}, x="x", y="y")))
    assert {"1", "10"} <= set(texts(lines({"one": ([1, 10], [3, 4])}, x="x", y="y", log_x=True)))
    bars = grouped_bars(["a", "b"], {"one": [1, 2], "two": [3, -4]}, y="lost")
    assert titles(bars) == ["a, one: 1", "b, one: 2", "a, two: 3", "b, two: -4"] and "lost" in texts(bars)


def test_a_matrix_is_blue_above_zero_red_below_and_white_at_zero():
    above, below, zero = fills(matrix([[1.0, -1.0, 0.0]], ["a"], ["b", "c", "d"], unit="nats"))
    red, blue = ([int(colour[i : i + 2], 16) for i in (1, 5)] for colour in (below, above))
    assert red[0] > red[1] and blue[1] > blue[0]
    assert all(int(zero[i : i + 2], 16) > 235 for i in (1, 3, 5))


@pytest.mark.parametrize("numbers", [True, False])
def test_a_matrix_writes_its_numbers_only_where_they_are_wanted(numbers):
    assert ("0.125" in texts(matrix([[0.125]], ["a"], ["b"], unit="nats", numbers=numbers))) == numbers


def test_bars_have_the_colours_that_mean_something_and_whiskers_and_a_level():
    plain = grouped_bars(["a"], {"one": [1]}, y="lost")
    assert fills(plain) == [COLOURS[0]]
    assert fills(grouped_bars(["a"], {"one": [1]}, y="lost", colours={"one": "#123456"})) == ["#123456"]
    whiskers = grouped_bars(["a"], {"one": [1]}, y="lost", intervals={"one": [(0.5, 2.0)]})
    assert whiskers.count("stroke-width: 0.9") > plain.count("stroke-width: 0.9")
    level = grouped_bars(["a"], {"one": [1]}, y="lost", level=0.5)
    assert "stroke-dasharray" in level and "stroke-dasharray" not in plain


@pytest.mark.parametrize("hostile", ["<script>x</script>", "a & b", "$x_1$", "&lt;"])
def test_names_are_text(hostile):
    for svg in (
        matrix([[1.0]], [hostile], [hostile], unit="nats"),
        grouped_bars([hostile], {hostile: [1.0]}, y=hostile),
        lines({hostile: ([1, 2], [3, 4])}, x=hostile, y=hostile),
    ):
        assert hostile in texts(svg) and "<script>x" not in svg
