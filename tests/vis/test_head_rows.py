import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.knowledge.attribution import source_scores_of_heads
from tl_neuron_attr.knowledge.token_words import TokenWords
from tl_neuron_attr.vis.head_rows import best_heads, head_rows, lowest_heads

PROMPT, TARGET = "Tim Duncan plays the sport of", " basketball"


@pytest.fixture(scope="module")
def rows():
    model = demo.load()
    _, cache = model.run_with_cache(PROMPT)
    q = tna.scored(cache, TARGET)
    scores, sources = tna.attribute_heads(q)[0], tna.attribute_head_positions(q)[0]
    tokens = model.to_str_tokens(PROMPT)
    heads = [*best_heads(scores, 3), *lowest_heads(scores, 3)]
    shown = source_scores_of_heads(q, heads)
    return q, cache, scores, sources, head_rows(q, heads, shown, scores, tokens, TokenWords(model, q.readout))


def test_the_best_heads_come_first_and_the_lowest_are_below_zero():
    scores = torch.tensor([[0.5, -2.0], [3.0, 0.0]])
    assert best_heads(scores, 2) == [(1, 0), (0, 0)]
    assert lowest_heads(scores, 3) == [(0, 1)]
    assert len(best_heads(scores, 9)) == 4


def test_a_row_says_what_the_head_does_and_where_it_looks(rows):
    _, cache, scores, sources, found = rows
    for row in found:
        assert row.score == float(scores[row.layer, row.head])
        parts = sources[row.layer, row.head]
        assert row.from_source == pytest.approx(float(parts.max() if row.score >= 0 else parts.min()), abs=1e-5)
        pattern = cache[f"blocks.{row.layer}.attn.hook_pattern"][0, row.head, -1]
        assert row.attention == pytest.approx(float(pattern[row.source]))
    assert found[0].name == f"L{found[0].layer}H{found[0].head}"


def test_it_writes_what_its_value_projection_makes_of_that_token(rows):
    _, cache, _, _, found = rows
    model = demo.load()
    for row in found[:2]:
        attn = model.blocks[row.layer].attn
        v = cache[f"blocks.{row.layer}.attn.hook_v"][0, row.source, row.head]
        logits = ((v @ attn.W_O[row.head]) * model.ln_final.w) @ model.W_U
        assert row.target_rank == int((logits > logits[model.to_single_token(TARGET)]).sum()) + 1
        assert row.writes.tokens[0] == model.to_single_str_token(int(logits.argmax()))


def test_it_looked_there_for_what_sets_that_source_apart(rows):
    _, cache, _, _, found = rows
    for row in found[:3]:
        split = tna.attention_sources(cache, row.layer, row.head)
        others = [i for i in range(len(split.sources)) if i != row.source]
        query, key, value = row.reasons[0]
        a, b = split.components.index(query), split.components.index(key)
        assert value == pytest.approx(float(split.pairs[row.source, a, b] - split.pairs[others, a, b].mean()), abs=1e-5)
        assert value == pytest.approx(float((split.pairs[row.source] - split.pairs[others].mean(0)).max()), abs=1e-5)


def test_an_architecture_that_hides_its_scores_gives_no_reasons():
    _, cache = architectures.run("opt", batch=1, dtype=torch.float32)
    q = tna.scored(cache, 5)
    scores, sources = tna.attribute_heads(q)[0], tna.attribute_head_positions(q)[0]
    tokens = [str(i) for i in range(sources.shape[-1])]
    found = head_rows(q, [(1, 0)], {(1, 0): sources[1, 0]}, scores, tokens, TokenWords(cache.model, q.readout))
    assert found[0].reasons == () and found[0].writes.tokens
