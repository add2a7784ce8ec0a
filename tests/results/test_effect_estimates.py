"""Estimated effects: what is summed over what, and the frame."""

from dataclasses import replace

import pytest
import torch

from tl_neuron_attr.results.effect_estimates import EffectEstimates

BATCH, LAYERS, LENGTH, D_MLP, HEADS, D_HEAD = 2, 3, 4, 7, 5, 6


@pytest.fixture(scope="module")
def found():
    g = torch.Generator().manual_seed(0)
    mlp = torch.randn(BATCH, LAYERS, LENGTH, D_MLP, generator=g, dtype=torch.float64)
    attn = torch.randn(BATCH, LAYERS, LENGTH, HEADS, D_HEAD, generator=g, dtype=torch.float64)
    return EffectEstimates(mlp, attn, mlp, attn, torch.zeros(BATCH), "gradient")


def test_neurons_are_summed_over_positions_and_heads_over_their_dimensions(found):
    for b in range(BATCH):
        for layer in range(LAYERS):
            for i in range(D_MLP):
                by_hand = sum(float(found.mlp[b, layer, p, i]) for p in range(LENGTH))
                assert float(found.mlp_neurons[b, layer, i]) == pytest.approx(by_hand)
            for h in range(HEADS):
                each = [sum(float(found.attn[b, layer, p, h, d]) for p in range(LENGTH)) for d in range(D_HEAD)]
                assert found.attn_neurons[b, layer, h].tolist() == pytest.approx(each)
                assert float(found.heads[b, layer, h]) == pytest.approx(sum(each))


def test_a_table_holds_each_layers_sums_of_a_batch_the_mean(found):
    for layer, attn, mlp in found.table().rows:
        assert attn == pytest.approx(float(found.attn[:, layer].sum()) / BATCH)
        assert mlp == pytest.approx(float(found.mlp[:, layer].sum()) / BATCH)
    assert found.table().caption == "estimated effects in nats, by gradient"


def test_a_frame_has_one_row_per_neuron(found):
    frame = found.to_frame()
    assert len(frame) == BATCH * LAYERS * (D_MLP + HEADS * D_HEAD)
    row = frame.query("site == 'attn' and prompt == 1 and layer == 2 and head == 3 and index == 4").iloc[0]
    assert row.effect == pytest.approx(float(found.attn_neurons[1, 2, 3, 4]))
    row = frame.query("site == 'mlp' and prompt == 0 and layer == 1 and index == 6").iloc[0]
    assert row.effect == pytest.approx(float(found.mlp_neurons[0, 1, 6]))
    assert frame.query("site == 'mlp'")["head"].isna().all() and frame.query("site == 'attn'")["head"].notna().all()


def test_estimates_of_one_prompt_have_the_same_frame_as_in_a_batch(found):
    one = EffectEstimates(found.mlp[0], found.attn[0], found.mlp[0], found.attn[0], found.log_prob[0], "gradient")
    expected = found.to_frame().query("prompt == 0").reset_index(drop=True)
    assert one.to_frame().equals(expected)


def test_the_top_are_the_first_of_the_sorted_frame(found):
    for sites in (("mlp",), ("attn",), ("mlp", "attn")):
        best = found.top(6, sites=sites)
        for prompt in range(BATCH):
            frame = found.to_frame().query("prompt == @prompt and site in @sites")
            rows = frame.sort_values("effect", ascending=False).head(6).fillna({"head": -1}).to_dict("records")
            mine = best[prompt]
            assert mine.score.tolist() == pytest.approx([row["effect"] for row in rows])
            for name in ("layer", "head", "index"):
                assert getattr(mine, name).tolist() == [row[name] for row in rows]
            assert mine.source.tolist() == [-1] * 6
            for row, coefficient in zip(rows, mine.coefficient.tolist(), strict=True):
                grid = found.mlp[prompt] if row["site"] == "mlp" else found.attn[prompt, :, :, row["head"]]
                column = grid[row["layer"], :, row["index"]].tolist()
                assert coefficient == max(column, key=abs)  # here activations are the estimates themselves


def test_what_is_not_there_is_not_among_the_top(found):
    """A narrower layer is filled up with zeros, which are no neurons."""
    mlp = found.mlp.clone()
    mlp[:, 1, :, 4:] = 0
    narrow = replace(found, mlp=mlp, mlp_activation=mlp)
    names = [(la, i) for la, i in zip(*map(narrow.top(18, sites=["mlp"])[0].flat, ("layer", "index")), strict=True)]
    assert len(set(names)) == 18 and not {(1, 4), (1, 5), (1, 6)} & set(names)
    with pytest.raises(ValueError, match="the 18 neurons with an estimate other than zero, got 19"):
        narrow.top(19, sites=["mlp"])
    with pytest.raises(ValueError, match="sites is empty"):
        narrow.top(1, sites=[])
    one = EffectEstimates(found.mlp[0], found.attn[0], found.mlp[0], found.attn[0], found.log_prob[0], "gradient")
    assert one.top(3).labels == found.top(3)[0].labels and not one.top(3).batched
