from xml.etree import ElementTree

import torch

from tl_neuron_attr.vis.charts import head_heatmap, layer_chart

SVG = "{http://www.w3.org/2000/svg}"


def titles(svg):
    return [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def texts(svg):
    return ["".join(t.itertext()) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_bar_says_its_layer_site_and_value():
    attn, mlp = torch.tensor([0.5, -0.25]), torch.tensor([1.0, 0.125])
    assert titles(layer_chart(attn, mlp)) == [
        "layer 0, attn: +0.5000 nats", "layer 1, attn: -0.2500 nats",
        "layer 0, mlp: +1.0000 nats", "layer 1, mlp: +0.1250 nats",
    ]  # fmt: skip


def test_axes_are_labelled_with_units():
    shown = texts(layer_chart(torch.ones(3), torch.ones(3)))
    assert {"layer", "increase of log p (nats)", "attention", "MLP"} <= set(shown)
    assert {"layer", "head", "nats"} <= set(texts(head_heatmap(torch.randn(3, 4))))


def test_every_cell_says_its_head_and_negative_ones_carry_a_sign():
    scores = torch.tensor([[1.0, -0.5], [-0.001, 0.25]])
    svg = head_heatmap(scores)
    assert sorted(titles(svg)) == [
        "L0H0: +1.0000 nats", "L0H1: -0.5000 nats", "L1H0: -0.0010 nats", "L1H1: +0.2500 nats",
    ]  # fmt: skip
    assert texts(svg).count("\u2212") == 1


def test_all_zero_scores_draw():
    assert len(titles(head_heatmap(torch.zeros(2, 2)))) == 4


def test_drawing_twice_gives_the_same_picture():
    assert layer_chart(torch.ones(2), torch.ones(2)) == layer_chart(torch.ones(2), torch.ones(2))
