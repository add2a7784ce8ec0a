"""Neurons as tables and frames: names, source tokens, one row per neuron."""

import pandas as pd
import torch

from tests import architectures
from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neuron_table import neuron_frame, neuron_keys, neuron_labels, neuron_table, neuron_tokens
from tl_neuron_attr.results.neuron_text import NeuronText

COLUMNS = {
    "site": [1, 0, 0, 1],
    "layer": [23, 21, 2, 0],
    "head": [-1, 0, 3, -1],
    "source": [-1, 1, -1, -1],
    "index": [6740, 79, 5, 8],
    "coefficient": [2.0, -1.5, 0.0, -3.0],
    "score": [0.5, 0.25, 0.125, 0.0625],
}
TEXT = NeuronText((("a", " b"), ("c", " d")), {"L23N6740+": (" x", "y"), "L0N8-": ("z",)})


def test_names_by_hand():
    assert neuron_labels(COLUMNS) == ["L23N6740", "L21H0D79@1", "L2H3D5", "L0N8"]
    assert neuron_keys(COLUMNS) == ["L23N6740+", "L21H0D79-", "L2H3D5+", "L0N8-"]


def test_the_token_read_is_that_of_the_neurons_own_prompt():
    swapped = COLUMNS | {"source": [-1, 1, 0, -1]}
    assert neuron_tokens(swapped, 2, TEXT) == [("", (" x", "y")), (" b", ()), ("c", ()), ("", ("z",))]
    assert neuron_tokens(swapped, 4, TEXT)[2] == ("a", ())
    assert neuron_tokens(swapped, 2, None) == []


def test_a_table_of_several_prompts_ranks_each_by_itself():
    table = neuron_table(COLUMNS, 2, TEXT)
    assert table.headings == ("prompt", "rank", "neuron", "source", "coefficient", "score", "promotes")
    assert [row[:4] for row in table.rows] == [
        (0, 1, "L23N6740", ""),
        (0, 2, "L21H0D79@1", "␣b @1"),
        (1, 1, "L2H3D5", ""),
        (1, 2, "L0N8", ""),
    ]
    assert table.rows[0][-1] == "␣x | y"


def test_of_one_prompt_there_is_no_prompt_column_and_the_effect_stands_where_it_was_measured():
    measured = neuron_table(COLUMNS | {"effect": [1.0, 2.0, 3.0, 4.0]}, 4, None)
    assert measured.headings == ("rank", "neuron", "source", "coefficient", "score", "effect")
    ranked = neuron_table(COLUMNS | {"target_logit": [0.5] * 4, "target_rank": [1, 2, 3, 4]}, 4, None)
    assert ranked.headings[-2:] == ("target's logit", "target's rank") and ranked.rows[1][-2:] == (0.5, 2)
    assert [row[-1] for row in measured.rows] == [1.0, 2.0, 3.0, 4.0]
    assert measured.rows[1][2] == "@1", "without text the position alone is known"


def test_a_frame_says_what_the_table_says():
    frame, table = neuron_frame(COLUMNS, 2, TEXT, batched=True), neuron_table(COLUMNS, 2, TEXT)
    for name in ("prompt", "rank", "neuron", "coefficient", "score"):
        assert frame[name].tolist() == [row[table.headings.index(name)] for row in table.rows]
    assert frame["site"].tolist() == ["mlp", "attn", "attn", "mlp"]
    assert frame["source_token"].tolist() == ["", " b", "", ""]
    assert "prompt" not in neuron_frame(COLUMNS, 4, None, batched=False)


def test_labels_name_site_layer_head_dimension_and_source(one):
    for label, site, layer, head, index, source in zip(
        one.labels, one.site, one.layer, one.head, one.index, one.source, strict=True
    ):
        mlp, attn = f"L{layer}N{index}", f"L{layer}H{head}D{index}@{source}"
        assert label == (mlp if SITES[int(site)] == "mlp" else attn)
        assert (int(head) == -1) == (int(source) == -1) == (SITES[int(site)] == "mlp")


def test_terminal_and_notebook_print_the_same_table(one):
    text, html = repr(one), one._repr_html_()
    assert str(one) == text
    for label, score in zip(one.labels, one.score.tolist(), strict=True):
        assert label in text and label in html
        assert f"{score:.4f}" in text and f"{score:.4f}" in html
    for heading in ("rank", "neuron", "source", "coefficient", "score", "promotes"):
        assert heading in text and heading in html


def test_the_source_token_is_the_prompts(one):
    words = [f"w{i}" for i in architectures.prompts()[0].tolist()]
    frame = one.to_frame()
    for source, token in zip(frame["source"], frame["source_token"], strict=True):
        assert token == ("" if source is pd.NA else words[source])


def test_a_frame_has_na_where_there_is_no_head_or_source():
    frame = neuron_frame(COLUMNS, 4, None, batched=False)
    assert frame["head"].tolist() == [pd.NA, 0, 3, pd.NA] and frame["source"].tolist() == [pd.NA, 1, pd.NA, pd.NA]
    assert str(frame["head"].dtype) == str(frame["source"].dtype) == "Int64"


def test_the_frame_has_a_row_a_neuron_and_prompt(batch):
    frame = batch.to_frame()
    assert len(frame) == 12 and frame["prompt"].tolist() == [0] * 6 + [1] * 6
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5, 6] * 2
    torch.testing.assert_close(torch.tensor(frame["score"].tolist()), batch.score.flatten())
    assert frame["neuron"].tolist() == batch.flat_labels
