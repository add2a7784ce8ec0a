from tl_neuron_attr.results.key_token_lists import KeyTokens


def test_a_row_says_what_switches_a_neuron_on_and_off():
    found = KeyTokens(("L3N1", "L4H0D2@1"), ((" city", "town"), ("a",)), ((" of",), ("b",)))
    table = found.table()
    assert table.headings == ("neuron", "switched on by", "switched off by")
    assert table.rows == [("L3N1", "␣city | town", "␣of"), ("L4H0D2@1", "a", "b")]
