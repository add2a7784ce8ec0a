"""Lists of tokens as one table cell."""

from tl_neuron_attr.results.token_lists import TokenLists, listed


def test_a_cell_holds_the_first_tokens_in_order_and_no_line_break():
    assert listed([" a", "b\n", "c"]) == "␣a | b\\n | c"
    assert listed([str(i) for i in range(9)]) == "0 | 1 | 2 | 3 | 4 | 5"
    assert listed([str(i) for i in range(9)], limit=2) == "0 | 1"
    assert listed([]) == ""


def test_a_table_has_one_row_per_neuron_promoted_before_suppressed():
    lists = TokenLists(("L1N2", "L3H4D5"), ((" up",), ("more", "most")), (("down",), ("less",)))
    table = lists.table()
    assert table.headings == ("neuron", "promotes", "suppresses")
    assert table.rows == [("L1N2", "␣up", "down"), ("L3H4D5", "more | most", "less")]
