"""What the stream says was written is what the model itself cached, on every architecture and in both modes."""

import pytest
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.model.stream import Stream

POS = torch.tensor([6, 3])
EVERY = list(architectures.BUILDERS | architectures.EXPERTS | architectures.LATER)
MODES = [pytest.param(False, id="default"), pytest.param(True, id="compat")]


def stream_of(name, compat):
    return Stream(architectures.run(name, compat=compat)[1])


def close(got, expected):
    """transformers computes some norms in float32 whatever the model's dtype, so 1e-5 is what can be asked."""
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("compat", MODES)
@pytest.mark.parametrize("name", EVERY)
def test_neurons_and_biases_sum_to_what_each_sublayer_wrote(name, compat):
    stream = stream_of(name, compat)
    for sublayer in stream.sublayers(stream.positions(POS)):
        written = torch.einsum("nd,bns->bd", sublayer.unscaled_directions(), sublayer.scaled_coefficients())
        close(written + sublayer.bias, sublayer.out)


@torch.no_grad()
@pytest.mark.parametrize("compat", MODES)
@pytest.mark.parametrize("name", EVERY)
def test_sublayers_sum_to_the_final_stream_which_reads_out_to_the_logits(name, compat):
    stream = stream_of(name, compat)
    places = stream.positions(POS)
    total = stream.at("blocks.0.hook_resid_pre", places)
    for layer in range(stream.n_layers):
        total = total + stream.out("attn", layer, places) + stream.out("mlp", layer, places)
    close(total, stream.at(f"blocks.{stream.n_layers - 1}.hook_resid_post", places))
    readout = stream.readout(places)
    model_says = stream.model(architectures.prompts())[[0, 1], POS]
    close(readout.finish(readout.logits(total)), model_says.to(stream.dtype).log_softmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bloom", "olmo2"])
def test_single_writes_are_the_products_of_direction_and_coefficient(name):
    stream = stream_of(name, False)
    for sublayer in stream.sublayers(stream.positions(POS)):
        rows, neuron = torch.tensor([0, 1, 1]), torch.tensor([0, 5, 7])
        source = torch.tensor([0, 0, sublayer.sources - 1])
        expected = (
            sublayer.unscaled_directions()[neuron] * sublayer.scaled_coefficients()[rows, neuron, source][:, None]
        )
        close(sublayer.writes(rows, neuron, source), expected)
        along = torch.randn(2, 32, dtype=torch.float64)
        everything = torch.einsum(
            "nd,bns,bd->bns", sublayer.unscaled_directions(), sublayer.scaled_coefficients(), along
        )
        close(sublayer.project_onto(along), everything)


SEQUENTIAL = ["gpt2", "llama", "gemma2", "bloom", "olmo2", "granite", "opt"]
NEEDED = (
    "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", "hook_pattern", "hook_v", "hook_post",
    "hook_pre", "hook_pre_linear", "hook_scale",
)  # fmt: skip


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_cache_without_the_stream_between_attention_and_mlp_gives_the_same_numbers(name):
    model = architectures.build(name)
    _, full = model.run_with_cache(architectures.prompts())
    _, partial = model.run_with_cache(architectures.prompts(), names_filter=lambda hook: hook.endswith(NEEDED))
    assert "blocks.1.hook_resid_mid" in full and "blocks.1.hook_resid_mid" not in partial
    stream, bare = Stream(full), Stream(partial)
    for layer in range(architectures.LAYERS):
        for site in ("attn", "mlp"):
            close(bare.base(site, layer, bare.positions(POS)), stream.base(site, layer, stream.positions(POS)))
    close(tna.attribute_mlp_neurons(partial, 5, pos=POS), tna.attribute_mlp_neurons(full, 5, pos=POS))
    found = [tna.value_neurons(cache, 5, 8, pos=POS) for cache in (full, partial)]
    queries = [
        tna.query_neurons(cache, value, 30, pos=POS) for cache, value in zip((full, partial), found, strict=True)
    ]
    assert queries[0].labels == queries[1].labels
    close(queries[1].score, queries[0].score)


@pytest.mark.parametrize("name", ["neox_parallel", "cohere"])
def test_a_parallel_mlp_starts_from_what_the_block_read(name):
    stream = stream_of(name, False)
    read = stream.at("blocks.1.hook_resid_pre", stream.last)
    assert torch.equal(stream.base("mlp", 1, stream.last), read)


@torch.no_grad()
@pytest.mark.parametrize("site", ["attn", "mlp"])
def test_biases_are_multiplied_with_the_residual_multiplier(site):
    """Granite with biases, which its checkpoints may have: a bias enters the stream times 0.3, as the neurons do."""
    biased = hf.GraniteForCausalLM(
        hf.GraniteConfig(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80,
            vocab_size=97, attention_bias=True, mlp_bias=True, residual_multiplier=0.3,
        )
    ).double().eval()  # fmt: skip
    for name, parameter in biased.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(torch.randn_like(parameter))
    biased.config.architectures = ["GraniteForCausalLM"]
    model = TransformerBridge.boot_transformers(
        "granite", hf_model=biased, tokenizer=architectures.tokenizer(), device="cpu"
    )
    _, cache = model.run_with_cache(architectures.prompts())
    stream = Stream(cache)
    sublayer = stream.sublayer(site, 1, stream.positions(POS))
    own = model.blocks[1].attn.b_O if site == "attn" else model.blocks[1].mlp.b_out
    close(sublayer.bias, (0.3 * own).expand(2, -1))
    written = torch.einsum("nd,bns->bd", sublayer.unscaled_directions(), sublayer.scaled_coefficients())
    close(written + sublayer.bias, sublayer.out)


@pytest.mark.parametrize("name", list(architectures.BUILDERS))
def test_a_cache_tells_its_tokens(name):
    assert torch.equal(stream_of(name, False).tokens(), architectures.prompts())


def test_neurons_are_counted_by_site_an_attention_neuron_once_for_each_source():
    stream = stream_of("llama", False)
    layers, length = architectures.LAYERS, stream.shape[1]
    attn, mlp = layers * length * architectures.D_MODEL, layers * architectures.D_MLP
    assert (stream.neuron_count(("attn",)), stream.neuron_count(("mlp",))) == (attn, mlp)
    assert stream.neuron_count(("mlp", "attn")) == attn + mlp and stream.neuron_count(()) == 0


def test_weights_are_views_not_copies():
    stream = stream_of("llama", False)
    sublayer = stream.sublayer("mlp", 1, stream.last)
    assert sublayer.directions.data_ptr() == stream.block(1).mlp.W_out.data_ptr()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "olmo2"])
def test_layer_scores_telescope_where_blocks_are_sequential(name):
    """Each sublayer starts where the one before ended, so the increases sum to log p(final) - log p(embedding)."""
    _, cache = architectures.run(name)
    stream = Stream(cache)
    places = stream.positions(POS)
    readout = stream.readout(places)
    ends = [readout.finish(readout.logits(stream.at(f"blocks.{i}", places)))[:, 5] for i in ENDS]
    scores = tna.attribute_layers(cache, 5, pos=POS)
    torch.testing.assert_close((scores.attn + scores.mlp).sum(1), ends[1] - ends[0], atol=1e-5, rtol=1e-5)


ENDS = ("0.hook_resid_pre", f"{architectures.LAYERS - 1}.hook_resid_post")


def test_kept_patterns_must_be_at_the_position_of_every_prompt():
    model = architectures.build("llama")
    stream = Stream(tna.run(model, architectures.prompts(), pos=torch.tensor([6, 5])))
    assert stream.pattern_rows(1, stream.positions(torch.tensor([6, 5]))).shape[0] == 2
    with pytest.raises(ValueError, match="run again with pos="):
        stream.pattern_rows(1, stream.positions(torch.tensor([6, 3])))


@torch.no_grad()
@pytest.mark.parametrize("name", list(architectures.HYBRIDS))
def test_a_mixer_without_heads_wrote_what_its_own_hook_says(name):
    stream = stream_of(name, False)
    places = stream.positions(POS)
    hook = next(h for mixer in ("linear_attn", "conv") if stream.has(h := f"blocks.0.{mixer}.hook_out"))
    close(stream.out("attn", 0, places), stream.at(hook, places))
    close(stream.out("mlp", 0, places), stream.at("blocks.0.hook_mlp_out", places))
