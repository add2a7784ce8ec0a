"""Checkpoints written from a bridge, read again by plain transformers."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

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
    model = architectures.build(name, dtype=torch.float32 if name == "mixtral" else torch.float64)  # as it is reloaded
    parts = [(1, 0), (2, 3), ("mlp", 1, 7), ("mlp", 2, 60)]
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


def differences(one, other):
    """Fields of two configs that differ, aside from where they came from."""
    mine, theirs = one.to_dict(), other.to_dict()
    return {
        name: (mine.get(name), theirs.get(name))
        for name in mine.keys() | theirs.keys()
        if name != "_name_or_path" and mine.get(name) != theirs.get(name)
    }


def assert_same_checkpoint(original, saved, text):
    """Config, tokenizer, generation defaults, logits and generated text of two folders, by plain transformers."""
    (model, tokenizer), (again, tokenizer_again) = (
        (AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
        for folder in (original, saved)
    )
    assert not differences(model.config, again.config)
    assert not differences(model.generation_config, again.generation_config)
    assert tokenizer.get_vocab() == tokenizer_again.get_vocab()
    assert tokenizer.special_tokens_map == tokenizer_again.special_tokens_map
    assert tokenizer.padding_side == tokenizer_again.padding_side
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tokenizer_again(text, return_tensors="pt")["input_ids"])
    torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-6, rtol=0)
    written = [each.generate(ids, max_new_tokens=5, do_sample=False) for each in (model, again)]
    assert isinstance(written[1], torch.Tensor) and torch.equal(*written)


def original_checkpoint(name, folder, *, specials, add_bos_token=False, generation=None):
    """A checkpoint as plain transformers writes it."""
    model = architectures.BUILDERS[name]().eval()
    if generation is not None:
        model.generation_config = generation
    model.save_pretrained(folder)
    if generation is None:
        (folder / "generation_config.json").unlink()
    vocabulary = {f"w{i}": i for i in range(93)} | {"<bos>": 93, "<unk>": 94, "<pad>": 95, "<eos>": 96}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", add_bos_token=add_bos_token, **specials)
    made.save_pretrained(folder)


SPECIALS = {
    "no BOS": {"eos_token": "<eos>"},
    "BOS that is not put first": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "padded on the left": {"bos_token": "<bos>", "eos_token": "<eos>", "padding_side": "left"},
}


@pytest.mark.parametrize("specials", SPECIALS.values(), ids=SPECIALS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "neox_parallel"])
def test_a_model_saved_untouched_is_the_checkpoint_it_was(name, specials, tmp_path):
    original_checkpoint(name, tmp_path / "original", specials=specials)
    model = TransformerBridge.boot_transformers(str(tmp_path / "original"), device="cpu")
    cna.save_checkpoint(model, tmp_path / "saved")
    assert_same_checkpoint(tmp_path / "original", tmp_path / "saved", "w1 w2 w3")


def test_bos_that_is_put_first_and_generation_defaults_are_kept(tmp_path):
    generation = GenerationConfig(temperature=0.3, do_sample=True, eos_token_id=[96, 5], repetition_penalty=1.1)
    specials = {"bos_token": "<bos>", "eos_token": "<eos>"}
    original_checkpoint("llama", tmp_path / "a", specials=specials, add_bos_token=True, generation=generation)
    model = TransformerBridge.boot_transformers(str(tmp_path / "a"), device="cpu")
    cna.save_checkpoint(model, tmp_path / "b")
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b", "w1 w2 w3")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b").generation_config.eos_token_id == [96, 5]


def test_the_bundled_model_saved_untouched_is_the_checkpoint_it_was(tmp_path):
    cna.save_checkpoint(demo.load(dtype=torch.float16), tmp_path / "saved")
    assert_same_checkpoint(demo.model.FOLDER, tmp_path / "saved", "Tim Duncan plays the sport of")


def test_a_saved_checkpoint_names_no_folder(tmp_path):
    cna.save_checkpoint(demo.load(), tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.json"):
        assert str(tmp_path) not in file.read_text() and "demo/weights" not in file.read_text()


def test_tokens_added_since_and_a_chat_template_are_kept(tmp_path):
    original_checkpoint("llama", tmp_path / "a", specials=SPECIALS["BOS that is not put first"])
    model = TransformerBridge.boot_transformers(str(tmp_path / "a"), device="cpu")
    model.tokenizer.add_tokens(["new"])
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    cna.save_checkpoint(model, tmp_path / "b")
    again = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert again("w1 new")["input_ids"] == [1, 97] and again.chat_template == "{{ messages[0]['content'] }}"


def test_a_tokenizer_whose_source_is_gone_is_saved_with_a_warning(tmp_path):
    original_checkpoint("llama", tmp_path / "a", specials=SPECIALS["no BOS"])
    model = TransformerBridge.boot_transformers(str(tmp_path / "a"), device="cpu")
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="tokenizer cannot be read again from"):
        cna.save_checkpoint(model, tmp_path / "b")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert not again.config.output_attentions
    assert isinstance(again.generate(torch.tensor([[1, 2]]), max_new_tokens=2), torch.Tensor)


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

    def crash(tokenizer, folder):
        raise OSError("disk full")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", crash)
    with pytest.raises(OSError, match="disk full"):
        cna.save_checkpoint(model, tmp_path / "new")
    assert not list(tmp_path.iterdir())
