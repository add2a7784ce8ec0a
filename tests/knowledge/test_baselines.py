"""The eight methods against their definitions, on every write materialised."""

import pytest
import torch

from tests import architectures, oracle
from tl_neuron_attr.knowledge.baselines import SCORES, baseline_scores

POS, TARGETS = [6, 4], [5, 11]


def by_definition(cache, row, layer):
    """All scores of one layer; the paper's ``p(w | m v)`` and its rank know no biases."""
    model, pos, w = cache.model, POS[row], TARGETS[row]
    writes = oracle.writes(cache, layer, "mlp", row, pos)
    v = oracle.through_post_norm(cache, layer, "mlp", row, pos, model.blocks[layer].mlp.W_out.double())
    m = cache[f"blocks.{layer}.mlp.hook_post"][row, pos].double()
    norm = model.ln_final
    weight = norm.w.double() + (1 if norm.uses_weight_offset else 0)
    scale = cache["ln_final.hook_scale"][row, pos].double()

    def logits(vectors):
        centred = vectors if norm.uses_rms_norm else vectors - vectors.mean(-1, keepdim=True)
        return model.adapter.apply_output_logits_transform(centred / scale * weight @ model.W_U.double())

    base = oracle.base(cache, layer, "mlp", row, pos)
    before, after = (oracle.log_probs(cache, row, pos, x)[..., w] for x in (base, base + writes))
    rank = 1 + (logits(v) > logits(v)[:, w, None]).sum(1)
    return {
        "log_prob_increase": after - before,
        "log_prob": logits(writes).log_softmax(-1)[:, w],
        "prob_increase": after.exp() - before.exp(),
        "norm": v.norm(dim=-1),
        "coefficient": m.abs(),
        "rank": 1 / rank.double(),
        "coefficient_norm": writes.norm(dim=-1),
        "coefficient_rank": m.abs() / rank,
    }


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gemma3", "olmo2", "granite", "neox_parallel"])
def test_every_method_equals_its_definition(name):
    _, cache = architectures.run(name)
    got = {s: baseline_scores(cache, torch.tensor(TARGETS), score=s, pos=torch.tensor(POS)) for s in SCORES}
    for row in range(2):
        for layer in range(architectures.LAYERS):
            for score, expected in by_definition(cache, row, layer).items():
                torch.testing.assert_close(
                    got[score][row, layer], expected, atol=1e-9, rtol=1e-6, msg=lambda m, s=score: f"{s}: {m}"
                )


def test_there_are_eight_in_the_papers_order():
    assert len(SCORES) == 8 and SCORES[0] == "log_prob_increase" and SCORES[-1] == "coefficient_rank"


def test_an_unknown_method_is_named():
    _, cache = architectures.run("gpt2")
    with pytest.raises(TypeError, match="score must be"):
        baseline_scores(cache, 5, score="best")


@pytest.mark.parametrize("score", SCORES)
def test_chunks_change_nothing(score):
    _, cache = architectures.run("llama")
    small, large = (baseline_scores(cache, 5, score=score, max_bytes=m) for m in (1, 2**28))
    torch.testing.assert_close(small, large)
