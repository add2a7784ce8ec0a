from tl_neuron_attr.results.plural import plural


def test_one_is_singular_and_none_and_many_are_plural():
    assert [plural(n, "prompt") for n in (0, 1, 2)] == ["0 prompts", "1 prompt", "2 prompts"]
    assert plural(1, "query", many="queries") == "1 query" and plural(1200, "query", many="queries") == "1,200 queries"
