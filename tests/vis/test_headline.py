import re
from math import exp

import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr import demo, evaluate, vis

PROMPT, TARGET = "Tim Duncan plays the sport of", " basketball"


@pytest.fixture(scope="module")
def cache():
    return demo.load().run_with_cache(PROMPT)[1]


def sentence(view):
    paragraph = re.search(r'<p class="headline">(.*?)</p>', str(view.body), re.DOTALL)[1]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", paragraph)).strip()


def test_every_number_is_the_functions_own(cache):
    found = sentence(vis.report(cache, TARGET, k=10, suppressing=0, queries=0))
    value = tna.value_neurons(cache, TARGET, 10)[0]
    layers, heads = tna.attribute_layers(cache, TARGET), tna.attribute_heads(cache, TARGET)[0]
    lost = evaluate.verify(demo.load(), PROMPT, value, TARGET, progress=False)
    best = divmod(int(heads.argmax()), heads.shape[1])
    assert f"Head L{best[0]}H{best[1]} reads" in found and f"({float(heads.max()):+.3f} nats)" in found
    assert f"neuron {value.labels[0]}, which promotes" in found and f"adds {float(value.score[0]):+.2f};" in found
    total = float(layers.attn.sum() + layers.mlp.sum())
    assert f"the 10 value neurons below hold {float(value.score.sum()):+.2f} of the {total:+.2f} nats" in found
    every = tna.value_neurons(cache, TARGET, 60)[0].score.sum()
    assert every > total, "so many neurons add more than there is"
    more = sentence(vis.report(cache, TARGET, k=60, suppressing=0, queries=0, measure=False))
    assert f"add {float(every):+.2f} nats, and all layers together, some of which take away, {total:+.2f}" in more
    before, after = exp(lost.log_prob), exp(lost.log_prob - lost.joint[10])
    assert f"without them p falls from {before:.3f} to {after:.3f}, measured." in found


def test_the_head_reads_the_token_it_gains_most_from(cache):
    sources = tna.attribute_head_positions(cache, TARGET)[0]
    heads = tna.attribute_heads(cache, TARGET)[0]
    layer, head = divmod(int(heads.argmax()), heads.shape[1])
    token = demo.load().to_str_tokens(PROMPT)[int(sources[layer, head].argmax())].strip()
    assert f"reads {token}" in sentence(vis.report(cache, TARGET, k=2, suppressing=0, queries=0))


def test_a_difference_has_no_probability_to_fall(cache):
    found = sentence(vis.report(cache, TARGET, contrast=" golf", k=3, suppressing=0, queries=0))
    assert "without them log p(target) − log p(contrast) falls from" in found


def test_where_nothing_raises_the_target_nothing_is_said_to(cache):
    heads = tna.attribute_heads(cache, TARGET)
    assert bool((heads > 0).any())
    rarest = int(torch.as_tensor(demo.load()(PROMPT)[0, -1]).argmin())
    found = sentence(vis.report(cache, rarest, k=3, suppressing=0, queries=0))
    raised = float(tna.attribute_heads(cache, rarest).max()) > 0
    assert ("No head raises the target" in found) != raised
