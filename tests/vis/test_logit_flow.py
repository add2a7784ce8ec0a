import re

import pytest

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo, vis
from tl_neuron_attr.vis.templates import nats


def test_every_cell_says_its_value():
    _, cache = demo.load().run_with_cache("Tim Duncan plays the sport of")
    found = tna.logit_flow(cache, " basketball")
    body = str(vis.logit_flow(found).body)
    for site, grid in (("attention", found.attn[0]), ("MLP", found.mlp[0])):
        titles = re.findall(rf"<title>L(\d+) {site} at \S+ @(\d+): (\S+) nats</title>", body)
        assert [(int(layer), int(pos)) for layer, pos, _ in titles] == [
            (layer, pos) for layer in range(grid.shape[0]) for pos in range(grid.shape[1])
        ]
        assert [shown for *_, shown in titles] == [nats(score) for score in grid.flatten().tolist()]
    opacities = [float(x) for x in re.findall(r'fill-opacity="(\S+)"', body)]
    assert max(opacities) == 1.0 and body.count('class="down"') == int((found.attn < 0).sum() + (found.mlp < 0).sum())


def test_several_prompts_are_refused():
    _, cache = architectures.run("gpt2")
    with pytest.raises(ValueError, match="found is of 2 prompts"):
        vis.logit_flow(tna.logit_flow(cache, 5))
