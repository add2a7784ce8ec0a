"""The target's logit and rank under neurons: the slow oracle's writes, read out over the whole vocabulary."""

from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr.numerics.sublayer import SITES

POSITIONS, TARGETS = (4, 6), (5, 7)


def contributions(cache, neurons, i, row, pos):
    """What neuron ``i`` of one prompt adds to every logit, the final norm's scale frozen: linear in what it wrote."""
    site, layer = SITES[int(neurons.site[i])], int(neurons.layer[i])
    head, source, index = (int(getattr(neurons, name)[i]) for name in ("head", "source", "index"))
    write = oracle.writes(cache, layer, site, row, pos)[(head, source, index) if site == "attn" else index]
    norm, scale = cache.model.ln_final, cache["ln_final.hook_scale"][row, pos]
    centred = write if norm.uses_rms_norm else write - write.mean()
    weight = norm.w.double() + (1 if getattr(norm, "uses_weight_offset", False) else 0)
    return (centred / scale * weight) @ cache.model.W_U.double()


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_they_are_those_of_all_logits(name):
    model = architectures.build(name)
    _, cache = model.run_with_cache(architectures.prompts())
    q = tna.scored(cache, torch.tensor(TARGETS), pos=torch.tensor(POSITIONS))
    found = tna.target_ranks(q, tna.value_neurons(q, k=6))
    for row, (pos, target) in enumerate(zip(POSITIONS, TARGETS, strict=True)):
        for i in range(6):
            logits = contributions(cache, found[row], i, row, pos)
            assert float(found.target_logit[row, i]) == pytest.approx(float(logits[target]), abs=1e-8)
            assert int(found.target_rank[row, i]) == int((logits > logits[target]).sum()) + 1


def test_of_an_answer_they_are_those_of_its_best_token():
    model = architectures.build("llama")
    whole = tna.answer(model, architectures.prompts(1)[0], torch.tensor([5, 9]), contrast=torch.tensor([3, 4, 2]))
    value = tna.value_neurons(whole, k=8)
    found = tna.target_ranks(whole, value)
    alone = tna.answer(model, architectures.prompts(1)[0], torch.tensor([5, 9]))
    moved = [tna.moved_tokens(alone.per_token[i], _at(alone.per_token[i], value)) for i in range(2)]
    ranks = torch.stack([each.target_rank for each in moved])
    logits = torch.stack([each.target_logit for each in moved])
    assert torch.equal(found.target_rank, ranks.amin(0))
    torch.testing.assert_close(found.target_logit, logits.gather(0, ranks.argmin(0)[None])[0])


def _at(q, value):
    """The same neurons, as they are at one place."""
    every = tna.value_neurons(q, k=q.stream.neuron_count(("mlp", "attn")), text=False)[0]
    return every.pick([every.labels.index(label) for label in value.labels])


def test_tables_frames_files_and_batches_have_the_columns(tmp_path):
    _, cache = tna.demo.load().run_with_cache(["3 + 5 =", "2 + 4 ="])
    value = tna.value_neurons(cache, ["8", "6"], k=3)
    found = tna.target_ranks(cache, value, ["8", "6"])
    assert found.table().headings[5:8] == ("score", "target's logit", "target's rank")
    assert found.to_frame()["target_rank"].tolist() == found.target_rank.flatten().tolist()
    found.save(tmp_path / "found.safetensors")
    assert tna.Neurons.load(tmp_path / "found.safetensors") == found
    assert found[1].top(2).target_rank.tolist() == found.target_rank[1, :2].tolist()
    assert tna.Neurons.joined([found, found]).target_rank.shape == (4, 3)
    assert replace(found, target_rank=None, target_logit=None) == value != found


def test_neurons_of_another_run_are_refused():
    model = tna.demo.load()
    _, cache = model.run_with_cache("3 + 5 =")
    _, other = model.run_with_cache("9 - 5 =")
    value = tna.value_neurons(cache, "8", k=3)
    with pytest.raises(ValueError, match=r"neurons is of another cache or position: L\d\S+ has coefficient"):
        tna.target_ranks(other, value, "8")
    with pytest.raises(ValueError, match=r"neurons is of another cache or position: L\d\S+ has coefficient"):
        tna.target_ranks(tna.answer(model, "9 - 5 =", "4 ."), value[0])
    with pytest.raises(ValueError, match="neurons is of 2 prompts and cache of 1: take both from one run"):
        tna.target_ranks(cache, tna.Neurons.joined([value, value]), "8")


@pytest.mark.parametrize("rank", [torch.zeros(3, dtype=torch.int64), torch.ones(3), torch.ones(2, dtype=torch.int64)])
def test_a_file_whose_ranks_are_none_is_refused(tmp_path, rank):
    from safetensors.torch import load_file, save_file

    _, cache = tna.demo.load().run_with_cache("3 + 5 =")
    found = tna.target_ranks(cache, tna.value_neurons(cache, "8", k=3), "8")[0]
    path = tmp_path / "found.safetensors"
    found.save(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(load_file(path) | {"target_rank": rank}, path, header)
    with pytest.raises(ValueError, match=r"field 'target_rank' is torch\.\w+ \(\d,\), expected torch.int64 \(3,\)"):
        tna.Neurons.load(path)
