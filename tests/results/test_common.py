"""Common neurons as data: counted, left out, marked."""

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr.results.common import CommonNeurons

SIZES = (3, 32, 93)


@pytest.fixture
def common():
    frame = pd.DataFrame(
        {
            "neuron": ["L1N7", "L0H2D3"],
            "ratio": [2889.0, float("nan")],
            "position": [0, -1],
            "massive": [1.0, 0.0],
            "value": [0.0, 1.0],
            "query": [1.0, 0.5],
        }
    )
    return CommonNeurons(frame, 4, 10, 1000.0, SIZES)


def neurons(batch):
    """The neurons L1N7, L1N8, L0H2D3@1, L0H2D3@0, L2N7 of one prompt, or each prompt's in another order."""
    columns = torch.tensor([[1, 1, -1, -1, 7], [1, 1, -1, -1, 8], [0, 0, 2, 1, 3], [0, 0, 2, 0, 3], [1, 2, -1, -1, 7]])
    rows = columns[None] if batch == 1 else torch.stack([columns, columns.flip(0)])
    site, layer, head, source, index = rows.unbind(-1)
    value = torch.arange(5.0).expand(len(rows), -1)
    found = tna.Neurons(site, layer, head, source, index, coefficient=value, score=value)
    return found if batch > 1 else found[0]


def test_an_attention_neuron_counts_once_for_each_source(common):
    assert common.count(("mlp",), 6, SIZES) == 1
    assert common.count(("attn",), 6, SIZES) == 6
    assert common.count(("mlp", "attn"), 6, SIZES) == 7
    assert "L0H2D3@5" in common and "L0H2D4" not in common and len(common) == 2


def test_what_is_not_common_stays_in_its_order(common):
    assert common.without(neurons(1), 5).labels == ["L1N8", "L2N7"]
    assert common.without(neurons(1), 1).labels == ["L1N8"]
    assert common.without(neurons(2), 5).labels == [["L1N8", "L2N7"], ["L2N7", "L1N8"]]


def test_tables_mark_what_is_common(common):
    marks = [row[2] for row in common.marked(neurons(1)).rows]
    assert marks == ["common", "", "common", "common", ""]
    with pytest.raises(TypeError, match="2 prompts"):
        common.marked(neurons(2))
    assert "L1N7" in str(common) and "2,889" in str(common) and "nan" not in str(common)


def test_neurons_of_another_model_are_refused(common):
    with pytest.raises(ValueError, match="exclude_common is of a model with 3 layers"):
        common.count(("mlp",), 6, (4, 32, 93))
