"""The table of architectures in docs/architectures.md: a tiny random model of every decoder that TransformerLens lists.

    python scripts/architectures.py            # writes the table
    python scripts/architectures.py Llama      # says of the classes whose names begin so what is found, writes nothing

Each model has four layers, norms and biases perturbed, and is run in float64. It is exact if every cache check of the
package passes: the neurons sum to their layers, and the layers to the logits.
"""

import inspect
import sys
import warnings
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna
from tl_neuron_attr.model.cached_hooks import THIRD
from tl_neuron_attr.model.stream import Stream

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
BEGIN, END = "<!-- made by scripts/architectures.py -->", "<!-- end -->"

SIZES: dict[str, Any] = {
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "num_hidden_layers": 4, "n_layer": 4, "num_layers": 4,
    "n_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "n_inner": 48, "ffn_dim": 48, "vocab_size": 97, "max_position_embeddings": 64,
    "n_positions": 64, "rotary_dim": 4, "word_embed_proj_dim": 32, "attention_heads": 4, "max_seq_len": 64,
    "moe_intermediate_size": 20, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "shared_expert_intermediate_size": 24, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "global_head_dim": 8, "block_ff_dim": 48,
    "block_auto_adjust_ff_dim": False, "conv_L_cache": 3, "sliding_window": 16, "mamba_d_state": 8, "mamba_n_heads": 4,
    "mamba_d_head": 16, "mamba_num_heads": 4, "mamba_head_dim": 16, "state_size": 8, "lru_width": 32,
    "attention_window_size": 16, "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0,
    "moe_num_experts": 4, "moe_k": 2, "num_dense_layers": 1, "layers_block_type": None,
}  # fmt: skip
"""Tiny values for every size that a config may have; those it does not have are left out."""

SINGLE = {"XGLMForCausalLM"}
"""What transformers runs in single precision only."""

LAYER_TYPES = {
    "Qwen3NextForCausalLM": ["linear_attention", "full_attention"] * 2,
    "Qwen3_5ForCausalLM": ["linear_attention", "full_attention"] * 2,
    "Qwen3_5MoeForCausalLM": ["linear_attention", "full_attention"] * 2,
    "OlmoHybridForCausalLM": ["linear_attention", "full_attention"] * 2,
    "GraniteMoeHybridForCausalLM": ["mamba", "attention"] * 2,
    "Zamba2ForCausalLM": ["mamba", "hybrid"] * 2,
    "Lfm2ForCausalLM": ["conv", "full_attention"] * 2,
    "Lfm2MoeForCausalLM": ["conv", "full_attention"] * 2,
}
"""What kinds of blocks a hybrid has: two of each."""


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    decoders = [name for name in sorted(SUPPORTED_ARCHITECTURES) if name.endswith(("ForCausalLM", "LMHeadModel"))]
    classes = [name for name in decoders if hasattr(hf, name)]
    wanted = [name for name in classes if not names or name.startswith(tuple(names))]
    absent = ", ".join(name.removesuffix("ForCausalLM") for name in decoders if name not in classes)
    found = {name: state(name) for name in wanted}
    rows = [f"| {name.removesuffix('ForCausalLM')} | {kind} | {note} |" for name, (kind, note) in found.items()]
    kinds = [kind for kind, _ in found.values()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds)))
    head = f"{len(rows)} classes: {counts}. Not classes of transformers, so not tried: {absent}."
    table = f"{head}\n\n| class | state | what was found |\n|---|---|---|\n" + "\n".join(rows)
    print(table)
    if not names:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def state(name: str) -> tuple[str, str]:
    """Return whether the package is exact on a class, and what was found."""
    try:
        model = tiny(name)
    except Exception as error:
        return "not booted", brief(error)
    try:
        with torch.no_grad():
            return examined(model)
    except Exception as error:
        return "refused", brief(error)


def examined(model: TransformerBridge) -> tuple[str, str]:
    """Run a model and every score of it."""
    tokens = torch.randint(3, 97, (2, 7), generator=torch.Generator().manual_seed(1))
    try:
        _, cache = model.run_with_cache(tokens)
    except Exception as error:
        return "does not run", brief(error)
    tna.attribute_layers(cache, 5)
    stream, works, fails = Stream(cache), [], []
    for what, function in (
        ("heads", tna.attribute_heads), ("attention neurons", tna.attribute_attn_neurons),
        ("MLP neurons", tna.attribute_mlp_neurons),
        ("query scores", query_scores),
    ):  # fmt: skip
        try:
            function(cache, 5)
            works.append(what)
        except Exception as error:
            fails.append(f"no {what}: {brief(error)}")
    kinds = [kind for kind, there in (
        ("experts", any(stream.weights(i).experts for i in range(stream.n_layers))),
        ("parallel", stream.weights(0).parallel),
        ("norms behind sublayers", any(stream.weights(0).post_norm.values())),
        ("embeddings by layer", stream.has(f"blocks.0.{THIRD}")),
    ) if there]  # fmt: skip
    if fails:
        return ("layers only" if not works else "in part"), "; ".join(fails)
    mixers = sum(not stream.weights(i).has_attn for i in range(stream.n_layers))
    return ("exact, mixers whole" if mixers else "exact"), ", ".join(kinds)


def query_scores(cache: Any, target: int) -> tna.Neurons:
    """Return what switched the best neurons on."""
    return tna.query_neurons(cache, tna.value_neurons(cache, target, 8), 8)


def brief(error: Exception) -> str:
    """Return the first line of an error, as a cell of a table."""
    line = (str(error).splitlines() or [""])[0].replace("|", "/")
    return f"{type(error).__name__}: {line}"[:150]


def tiny(name: str) -> TransformerBridge:
    """Return a tiny random model of a class, in float64."""
    model_class = getattr(hf, name)
    config = tiny_config(model_class.config_class, LAYER_TYPES.get(name), MORE.get(name, {}))
    config._experts_implementation = "eager"  # the grouped product of torch knows no float64
    torch.manual_seed(0)
    model = model_class(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model = model if name in SINGLE else model.double()
    model.config.architectures = [name]
    return TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer(), device="cpu")


MORE: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {"attn_layer_indices": [1, 3]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 2]]},
    "NemotronHForCausalLM": {"n_groups": 2},
    "GraniteMoeHybridForCausalLM": {"position_embedding_type": "rope"},
    "GlmMoeDsaForCausalLM": {"num_key_value_heads": 4},
    "FalconH1ForCausalLM": {"mamba_d_ssm": 64, "mamba_n_groups": 1},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "expand": 2},
}
"""What single classes need beside sizes."""


def tiny_config(config_class: Any, layer_types: list[str] | None, more: dict[str, Any]) -> Any:
    """Return a config with every size it has made tiny."""
    known = inspect.signature(config_class.__init__).parameters
    fields = set(known) | set(getattr(config_class, "__dataclass_fields__", {})) | set(config_class.attribute_map)
    chosen = {key: value for key, value in SIZES.items() if key in fields and value is not None}
    if layer_types is not None:
        chosen["layer_types"] = layer_types
    return config_class(**chosen | more)


def tokenizer() -> Any:
    words = {f"w{i}": i for i in range(96)} | {"<unk>": 96}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="w1", pad_token="w0", eos_token="w2"
    )
    folder = Path(mkdtemp())
    made.save_pretrained(folder)  # TransformerLens reloads the tokenizer, so it must be on disk
    return hf.AutoTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
