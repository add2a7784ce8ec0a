import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import architectures
from tl_neuron_attr import cna, demo, edit
from tl_neuron_attr.cna import checkpoints

TOKENS = architectures.prompts()
NO_WIDTH = {"bloom"}
# some architectures compute norms and rotations in float32 outside a bridge, also in a float64 model: hence 1e-5


def kept(counts):
    return [("mlp", layer, i) for layer, count in enumerate(counts) for i in range(count)]


def reloaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", [*architectures.BUILDERS])
def test_an_edited_model_comes_back(name, tmp_path):
    model = architectures.build(name, dtype=torch.float32 if name == "mixtral" else torch.float64)
    parts = [(1, 0), (2, 3)] + ([("mlp", 1, 7), ("mlp", 2, 60)] if name != "mixtral" else [])
    untouched = model(TOKENS)
    with edit(model, parts, scale=0.3):
        expected = model(TOKENS)
        cna.save_checkpoint(model, tmp_path / "edited")
    assert not torch.allclose(untouched, expected, atol=1e-6)
    torch.testing.assert_close(reloaded(tmp_path / "edited")(TOKENS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("counts", [(20, 20, 20), (20, 35, 11)])
@pytest.mark.parametrize("name", [name for name in architectures.DENSE if name != "phi3"])
def test_a_pruned_model_comes_back_as_narrow_as_its_widest_layer(name, counts, tmp_path):
    model = architectures.build(name)
    with cna.prune_mlp(model, kept(counts), [0, 1, 2], structured=True):
        expected = model(TOKENS)
        cna.save_checkpoint(model, tmp_path / "pruned")
    bridge = TransformerBridge.boot_transformers(str(tmp_path / "pruned"), device="cpu", dtype=torch.float64)
    torch.testing.assert_close(reloaded(tmp_path / "pruned")(TOKENS).logits, expected, rtol=0, atol=1e-5)
    whole = len(model.blocks[0].mlp.W_out)
    for block, count in zip(bridge.blocks, counts, strict=True):
        assert len(block.mlp.W_out) == (whole if name in NO_WIDTH else max(counts))
        assert not block.mlp.W_out[count:].any() and block.mlp.W_out[:count].all(1).any()


def test_a_model_pruned_in_some_layers_keeps_its_width():
    model = architectures.build("llama")
    with cna.prune_mlp(model, kept((0, 0, 20)), [2], structured=True):
        ordinary = checkpoints.ordinary_model(model)
    assert ordinary.config.intermediate_size == 80
    assert not ordinary.model.layers[2].mlp.down_proj.weight[:, 20:].any()


def test_the_checkpoint_shares_nothing_with_the_model():
    model = architectures.build("gpt2")
    ordinary = checkpoints.ordinary_model(model)
    before = model(TOKENS)
    for parameter in ordinary.parameters():
        parameter.data.zero_()
    assert torch.equal(model(TOKENS), before)


def test_the_tokenizer_comes_along(tmp_path):
    model = demo.load()
    with edit(model, [("mlp", 4, 17)]):
        cna.save_checkpoint(model, tmp_path / "demo")
        expected = model("3 + 5 =")
    ids = AutoTokenizer.from_pretrained(tmp_path / "demo")("3 + 5 =", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(reloaded(tmp_path / "demo")(ids).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "fused"), [("llama", False), ("neox_parallel", True)])
def test_an_attached_adapter_is_saved_where_the_matrices_are_apart(name, fused, tmp_path):
    model = architectures.build(name)
    cases = [cna.Case(tuple(row.tolist()), 5) for row in TOKENS]
    adapter = cna.train_lora(model, cases, layer=1, learning_rate=3e-2, epochs=9, progress=False)
    with adapter.attached(model):
        if fused:
            with pytest.raises(ValueError, match="checkpoint would not compute what model does"):
                cna.save_checkpoint(model, tmp_path / "adapted")
            assert not list(tmp_path.iterdir())
        else:
            cna.save_checkpoint(model, tmp_path / "adapted")
            torch.testing.assert_close(reloaded(tmp_path / "adapted")(TOKENS).logits, model(TOKENS), atol=1e-5, rtol=0)


def test_a_folder_that_exists_is_left_alone(tmp_path):
    with pytest.raises(FileExistsError, match="exists: give a new one"):
        cna.save_checkpoint(architectures.build("gpt2"), tmp_path)


def test_a_crash_leaves_no_folder(tmp_path, monkeypatch):
    model = architectures.build("gpt2")

    def crash(folder):
        raise OSError("disk full")

    monkeypatch.setattr(model.tokenizer, "save_pretrained", crash)
    with pytest.raises(OSError, match="disk full"):
        cna.save_checkpoint(model, tmp_path / "new")
    assert not list(tmp_path.iterdir())
