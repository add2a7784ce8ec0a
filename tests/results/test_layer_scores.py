"""Scores by layer as a table and as a frame."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.results.layer_scores import LayerScores
from tl_neuron_attr.results.storage import save_tensors


def test_a_table_of_one_prompt_holds_its_scores_and_the_embedding_first():
    scores = LayerScores(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.25]), torch.tensor(3.0))
    table = scores.table()
    assert list(table.rows) == [("embed", 3.0, None), (0, 1.0, 0.5), (1, -2.0, 0.25)]
    assert table.caption == "scores in nats"


def test_a_table_of_a_batch_holds_the_means():
    scores = LayerScores(torch.tensor([[1.0, 2.0], [3.0, -6.0]]), torch.tensor([[0.0, 4.0], [1.0, 4.0]]))
    table = scores.table()
    assert list(table.rows) == [(0, 2.0, 0.5), (1, -2.0, 4.0)]
    assert table.caption == "scores in nats, mean of 2 prompts"


def test_a_frame_has_one_row_per_prompt_layer_and_site():
    attn, mlp = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), -torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    frame = LayerScores(attn, mlp).to_frame()
    assert len(frame) == 3 * 2 * 2
    for row in frame.to_dict("records"):
        assert row["score"] == float((attn if row["site"] == "attn" else mlp)[row["prompt"], row["layer"]])


def test_layer_scores_print_and_become_a_frame():
    _, cache = architectures.run("gpt2", dtype=torch.float32)
    scores = tna.attribute_layers(cache, 5)
    assert "mean of 2 prompts" in str(scores)
    frame = scores.to_frame()
    assert len(frame) == 2 * 2 * architectures.LAYERS
    picked = frame[(frame.prompt == 1) & (frame.layer == 2) & (frame.site == "mlp")]
    assert picked["score"].item() == pytest.approx(float(scores.mlp[1, 2]))


def test_a_file_gives_back_what_was_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    attn, mlp, embed = (torch.randn(shape, generator=generator) for shape in ((2, 3), (2, 3), (2,)))
    for scores in (LayerScores(attn, mlp, embed), LayerScores(attn[0], mlp[0])):
        scores.save(tmp_path / "layers")
        assert LayerScores.load(tmp_path / "layers") == scores


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"attn": torch.zeros(3)}, "field 'mlp' is missing"),
        ({"attn": torch.zeros(3), "mlp": torch.zeros(2)}, r"field 'mlp' is torch.float32 \(2,\)"),
        ({"attn": torch.zeros(3), "mlp": torch.full((3,), torch.nan)}, "field 'mlp' holds NaN"),
        ({"attn": torch.zeros(3), "mlp": torch.zeros(3), "embed": torch.zeros(1)}, r"field 'embed' is .* \(1,\)"),
    ],
)
def test_a_malformed_file_is_refused_by_field(tmp_path, tensors, message):
    save_tensors(tmp_path / "layers", "layer_scores", tensors, {})
    with pytest.raises(ValueError, match=message):
        LayerScores.load(tmp_path / "layers")
