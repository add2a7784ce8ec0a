from dataclasses import replace

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.knowledge.token_words import TokenWords
from tl_neuron_attr.vis import neuron_rows as module
from tl_neuron_attr.vis.neuron_rows import neuron_rows

PROMPT, TARGET = "Tim Duncan plays the sport of", " basketball"


def rows_of(cache, target, answers, k=12, largest=True, **scoring):
    q = tna.scored(cache, target, **scoring)
    found = tna.value_neurons(q, k=k, largest=largest)
    neurons = found[0] if found.batched else found
    words = TokenWords(q.stream.model, q.readout)
    return neurons, neuron_rows(q, neurons, words, answers=[(token, str(token)) for token in answers])


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "llama", "gemma2"])
@pytest.mark.filterwarnings("ignore:the model caps its logits")
def test_the_change_of_an_answer_is_its_own_score(name):
    """What a neuron adds to another answer is its score with that answer in the target's place."""
    _, cache = architectures.run(name, batch=1)
    neurons, rows = rows_of(cache, 5, [5, 11, 2])
    mlp, attn = (
        [f(cache, token)[0] for token in (5, 11, 2)] for f in (tna.attribute_mlp_neurons, tna.attribute_attn_neurons)
    )
    for i, row in enumerate(rows):
        layer, head, source, index = (int(getattr(neurons, n)[i]) for n in ("layer", "head", "source", "index"))
        expected = [
            float(m[layer, index] if row.site == "mlp" else a[layer, head, source, index])
            for m, a in zip(mlp, attn, strict=True)
        ]
        assert [change for _, change in row.answers] == pytest.approx(expected, abs=1e-5)
        assert row.score == pytest.approx(expected[0], abs=1e-5)


def test_promoted_and_suppressed_tokens_and_the_targets_rank():
    model = demo.load()
    _, cache = model.run_with_cache(PROMPT)
    neurons, rows = rows_of(cache, TARGET, [], k=5)
    lists = tna.top_tokens(cache, neurons, k=12)
    everything = tna.top_tokens(cache, neurons, k=model.cfg.d_vocab)
    for row, up, down, ranking in zip(rows, lists.promoted, lists.suppressed, everything.promoted, strict=True):
        assert (row.promoted.tokens, row.suppressed.tokens) == (up, down)
        assert ranking[row.target_rank - 1].strip() == TARGET.strip()
    assert [row.switched_on_by.tokens for row in rows] == list(tna.key_tokens(cache, neurons, k=12).on)
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].share == 1.0 and rows[0].effect is None and not rows[0].disagrees


def test_the_targets_logit_is_that_of_its_column_of_ranks():
    _, cache = demo.load().run_with_cache(PROMPT)
    neurons, rows = rows_of(cache, TARGET, [7], k=5)
    ranked = tna.target_ranks(cache, neurons, TARGET)
    assert [row.target_logit for row in rows] == pytest.approx(ranked.target_logit.tolist(), abs=1e-5)
    assert [row.target_rank for row in rows] == ranked.target_rank.tolist()
    assert rows_of(cache, TARGET, [], k=2)[1][0].target_logit is None


def test_no_tokens_switch_a_neuron_on_where_the_architecture_hides_them():
    _, cache = architectures.run("bloom", batch=1)
    _, rows = rows_of(cache, 5, [], k=3)
    assert [row.switched_on_by for row in rows] == [None] * 3


def test_chunks_change_nothing(monkeypatch):
    _, cache = architectures.run("llama", batch=1)
    _, whole = rows_of(cache, 5, [11], k=7, largest=False)
    monkeypatch.setattr(module, "_CHUNK", 3)
    _, chunked = rows_of(cache, 5, [11], k=7, largest=False)
    assert [row.name for row in chunked] == [row.name for row in whole]
    assert [row.rank for row in chunked] == list(range(1, 8))
    assert [row.share for row in chunked] == [row.share for row in whole]
    assert [row.answers[0][1] for row in chunked] == pytest.approx([row.answers[0][1] for row in whole], abs=1e-6)


def test_a_neuron_whose_removal_helps_is_marked():
    _, cache = demo.load().run_with_cache(PROMPT)
    q = tna.scored(cache, TARGET)
    value = tna.value_neurons(q, k=2)[0]

    signs = replace(value, effect=value.score * torch.tensor([1.0, -1.0]))
    rows = neuron_rows(q, signs, TokenWords(q.stream.model, q.readout))
    assert [row.disagrees for row in rows] == [False, True]


def test_no_neurons_are_no_rows():
    _, cache = demo.load().run_with_cache(PROMPT)
    q = tna.scored(cache, TARGET)
    assert neuron_rows(q, tna.value_neurons(q, k=2)[0].pick([]), TokenWords(q.stream.model, q.readout)) == []


def test_a_row_holds_the_contexts_of_its_own_neuron_and_sign():
    model = demo.load()
    q = tna.scored(model.run_with_cache(PROMPT)[1], TARGET)
    neurons = tna.value_neurons(q, k=12)[0]
    layers = {
        f"layer_{layer:02d}": pd.DataFrame(
            {
                "index": range(model.cfg.d_mlp),
                "positive_context": [[f"{layer} {i} [[+]] {n}" for n in range(9)] for i in range(model.cfg.d_mlp)],
                "negative_context": [[f"{layer} {i} [[-]]"] for i in range(model.cfg.d_mlp)],
            }
        )
        for layer in range(model.cfg.n_layers)
    }
    rows = neuron_rows(q, neurons, TokenWords(model, q.readout), catalogue=layers)
    assert {row.site for row in rows} == {"mlp", "attn"}
    for row, layer, index in zip(rows, neurons.layer.tolist(), neurons.index.tolist(), strict=True):
        sign = "+" if row.coefficient > 0 else "-"
        start = f"{layer} {index} " if row.site == "mlp" else None
        assert [before for before, _, _ in row.marked_contexts[:1]] == ([start] if start else [])
        assert {token for _, token, _ in row.marked_contexts} == ({sign} if start else set())
        assert len(row.contexts) == (0 if start is None else 5 if sign == "+" else 1)
