import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr import cna
from tl_neuron_attr.cna.bias_neurons import log_probs, target_ids, towards

PAIRS = [("w1 w2 w3 w4", "w1 w5 w3 w4"), ("w9 w8 w7", "w9 w6 w7"), ("w2 w2 w2 w2", "w2 w3 w2 w2")]
TARGETS = ["w20", "w21", "w22"]


def told(log_probs, token, contrast):
    return log_probs[..., token] - (0 if contrast is None else log_probs[..., contrast])


@torch.no_grad()
def slow_changes(model, pairs, targets, contrasts=None):
    """Mean change of every neuron, ``{(site, layer, head or -1, index): nats}``, one log_softmax each."""
    ids = [model.to_single_token(target) for target in targets]
    caches = [[model.run_with_cache(model.to_tokens(text))[1] for text in pair] for pair in pairs]
    finals = [[model(model.to_tokens(text))[0, -1].log_softmax(-1) for text in pair] for pair in pairs]
    others = [model.to_single_token(contrast) for contrast in contrasts or []] or [None] * len(ids)
    sums = {}
    for token, contrast in zip(ids, others, strict=True):
        side = int(sum(float(b[token] - a[token]) for a, b in finals) > 0)
        for pair in caches:
            mine, other = pair[side], pair[1 - side]
            for sign, cache in ((1, mine), (-1, other)):
                for layer in range(3):
                    for site in ("mlp", "attn"):
                        base = oracle.base(cache, layer, site, 0, -1)
                        before = told(oracle.log_probs(mine, 0, -1, base), token, contrast)
                        writes = oracle.writes(cache, layer, site, 0, -1)
                        after = told(oracle.log_probs(mine, 0, -1, base + writes), token, contrast)
                        change = after - before
                        change = change[None] if site == "mlp" else change.sum(1)
                        for head, row in enumerate(change):
                            for i, value in enumerate(row):
                                key = (site, layer, head if site == "attn" else -1, i)
                                sums[key] = sums.get(key, 0.0) + sign * float(value)
    return {key: value / len(pairs) / len(ids) for key, value in sums.items()}


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(
    ("sites", "contrasts"), [(("mlp",), None), (("mlp", "attn"), None), (("mlp",), ["w21", "w30", "w20"])]
)
def test_the_neurons_are_those_a_slow_loop_finds(name, sites, contrasts):
    model = architectures.build(name)
    found = cna.bias_neurons(model, PAIRS, TARGETS, 12, sites=sites, contrasts=contrasts)
    slow = {key: value for key, value in slow_changes(model, PAIRS, TARGETS, contrasts).items() if key[0] in sites}
    best = sorted(slow, key=lambda key: -slow[key])[:12]
    expected = [f"L{la}N{i}" if site == "mlp" else f"L{la}H{h}D{i}" for site, la, h, i in best]
    assert found.labels == expected
    assert found.score.tolist() == pytest.approx([slow[key] for key in best], abs=1e-7)


def test_targets_are_towards_the_prompt_after_which_they_are_likelier():
    model = architectures.build("llama")
    ids = target_ids(model, TARGETS)
    found = log_probs(model, PAIRS, ids)
    for p, pair in enumerate(PAIRS):
        for side, text in enumerate(pair):
            slow = model(model.to_tokens(text))[0, -1].log_softmax(-1)[ids]
            torch.testing.assert_close(found[p, :, side], slow.detach(), rtol=0, atol=1e-9)
    assert towards(torch.tensor([[[0.0, -1.0], [-2.0, 0.0]], [[0.0, 0.5], [-1.0, -3.0]]])).tolist() == [0, 0]


def test_turning_every_pair_round_changes_nothing():
    model = architectures.build("llama")
    there = cna.bias_neurons(model, PAIRS, TARGETS, 9)
    back = cna.bias_neurons(model, [(b, a) for a, b in PAIRS], TARGETS, 9)
    assert there.labels == back.labels
    torch.testing.assert_close(there.score, back.score)


@pytest.mark.parametrize(
    ("pairs", "targets", "n", "message"),
    [
        ([], TARGETS, 3, "prompt_pairs is empty"),
        (PAIRS, [], 3, "targets is empty"),
        ([("w1 w2", "w1")], TARGETS, 3, r"the prompts of \('w1 w2', 'w1'\) differ in length"),
        (PAIRS, ["w1 w2"], 3, "targets='w1 w2' must be one token"),
        (PAIRS, TARGETS, 0, "n must be between 1 and the 240 neurons of mlp, got 0"),
        (PAIRS, TARGETS, 241, "n must be between 1 and the 240 neurons of mlp, got 241"),
    ],
)
def test_bad_arguments_are_named(pairs, targets, n, message):
    with pytest.raises(ValueError, match=message):
        cna.bias_neurons(architectures.build("gpt2"), pairs, targets, n)


def test_contrasts_are_one_a_target():
    with pytest.raises(ValueError, match="contrasts must be one for each of the 3 targets, got 1"):
        cna.bias_neurons(architectures.build("gpt2"), PAIRS, TARGETS, 3, contrasts=["w1"])
