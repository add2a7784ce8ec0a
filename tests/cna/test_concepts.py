"""Concept words counted by hand; a model in which the concept's neurons are known because they were put in."""

import pytest
import torch

from tests import architectures, oracle
from tests.cna.test_feature_predicting import said
from tl_neuron_attr import cna

WORDS = [f"w{i}" for i in range(20)]


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "olmo2", "falcon", "cohere"])
def test_counts_are_those_of_each_neuron_moved_by_hand(name, compat):
    model = architectures.build(name, compat=compat)
    options = {"layers": [1], "attn_layers": [0, 2], "max_bytes": 5000, "progress": False}
    # 10 of the 77 other tokens are sampled: enough to show that no word is among the first 3, not among the first 12
    found = {top: cna.concept_neurons(model, WORDS, top=top, **options) for top in (3, 12)}
    _, cache = model.run_with_cache(architectures.prompts(1))
    final = model.ln_final

    def words_in(vector, top):
        centred = vector if final.uses_rms_norm else vector - vector.mean()
        logits = centred * (final.w + (1 if getattr(final, "uses_weight_offset", False) else 0)) @ model.W_U
        return int((logits.topk(top).indices < 20).sum())

    def through(layer, write):
        attn = model.blocks[layer].attn
        read = oracle.norm_read(cache, layer, "attn", 0, 0, write)
        per_kv = len(attn.W_O) // len(attn.W_V)
        raw = sum(read @ attn.W_V[h // per_kv] @ attn.W_O[h] for h in range(len(attn.W_O)))
        return oracle.through_post_norm(cache, layer, "attn", 0, 0, raw)

    for i in range(0, 80, 8):
        unit = oracle.through_post_norm(cache, 1, "mlp", 0, 0, model.blocks[1].mlp.W_out[i].double())
        for top, of in found.items():
            assert int(of.unmoved[0, i]) == words_in(unit, top)
            assert int(of.counts[0, i]) == max(words_in(through(layer, unit), top) for layer in (0, 2))


def test_more_than_m_and_random_sets():
    found = cna.concept_neurons(architectures.build("llama"), WORDS, layers=[0, 2], top=12, progress=False)
    frame = found.to_frame()
    for m in (0, 2, 4):
        rows = frame[frame["moved"] > m]
        assert found.more_than(m) == [("mlp", la, i) for la, i in zip(rows["layer"], rows["index"], strict=True)]
    drawn = found.random(30, seed=1)
    assert len(set(drawn)) == 30 and {layer for _, layer, _ in drawn} == {0, 2} and drawn == found.random(30, seed=1)
    assert drawn != found.random(30, seed=2) and "M = 0" in str(found)


def test_words_are_matched_without_case_and_spaces_and_the_others_are_named():
    model = architectures.build("gpt2")
    found = cna.concept_neurons(model, [" W3", "w5 ", "nothing"], progress=False)
    assert found.words == ("w3", "w5") and found.missing == ("nothing",) and found.layers == (0,)


@torch.no_grad()
def test_zeroing_sets_is_zeroing_the_weights():
    model = architectures.build("gpt2")
    cases = said(model)
    found = cna.concept_neurons(model, WORDS, layers=[0, 1, 2], top=12, progress=False)
    tested = cna.zero_shot(model, cases, found, more_than=[0, 4, 99], seeds=2, progress=False)

    def lost(parts):
        changed = architectures.build("gpt2")
        for _, layer, index in parts:
            changed.blocks[layer].mlp.W_out[index] = 0
        return 1 - sum(cna.answered(changed, cases)) / sum(cna.answered(model, cases))

    for row in tested.frame.to_dict("records"):
        chosen = found.more_than(row["more_than"])
        assert row["neurons"] == len(chosen) and row["concept"] == pytest.approx(lost(chosen))
        random = [lost(found.random(len(chosen), seed)) for seed in range(2)]
        assert row["random"] == pytest.approx(sum(random) / 2)
    assert tested.frame["concept"].tolist()[-1] == 0, "nothing is zeroed, nothing is lost"
    assert tested.accuracy == pytest.approx(5 / 6) and "M = 4" in str(tested)


def test_bad_input_is_named():
    model = architectures.build("gpt2")
    for words in (["nothing"], [], [""]):
        with pytest.raises(ValueError, match=r"words: none of .* is a token of the vocabulary"):
            cna.concept_neurons(model, words)
    with pytest.raises(TypeError, match="words must be a list whose elements are each a string, got 'w1'"):
        cna.concept_neurons(model, "w1")
    for name in ("layers", "attn_layers"):
        with pytest.raises(ValueError, match=f"{name} is empty: give at least one layer"):
            cna.concept_neurons(model, WORDS, **{name: []})
        with pytest.raises(IndexError, match=f"{name} must lie between 0 and 2, got 3"):
            cna.concept_neurons(model, WORDS, **{name: [3]})
    with pytest.raises(ValueError, match="top must be between 1 and the vocabulary's 97 tokens, got 98"):
        cna.concept_neurons(model, WORDS, top=98)
    found = cna.concept_neurons(model, WORDS, progress=False)
    with pytest.raises(ValueError, match="n must be between 0 and the 80 neurons, got 81"):
        found.random(81)
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        cna.zero_shot(model, said(model), found, seeds=0)
    wrong = [case for i, case in enumerate(said(model)) if i == 1]
    with pytest.raises(ValueError, match="the untouched model answers none of them"):
        cna.zero_shot(model, wrong, found)
    model.tokenizer = None
    with pytest.raises(ValueError, match="words need a tokenizer"):
        cna.concept_neurons(model, WORDS)
