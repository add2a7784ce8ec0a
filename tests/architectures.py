"""Tiny random models of every architecture the package claims, booted offline."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformer_lens import ActivationCache
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

VOCAB = 97
LAYERS, D_MODEL, HEADS, KV, D_MLP = 3, 32, 4, 2, 80

_SIZES = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": D_MLP,
    "vocab_size": VOCAB,
}
_GQA = {**_SIZES, "num_key_value_heads": KV, "max_position_embeddings": 64}
_GEMMA = {**_GQA, "head_dim": 8}


def _gpt2() -> hf.PreTrainedModel:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(n_layer=LAYERS, n_head=HEADS, n_embd=D_MODEL, n_inner=D_MLP, vocab_size=VOCAB, n_positions=64)
    )


def _gptj() -> hf.PreTrainedModel:
    config = hf.GPTJConfig(
        n_layer=LAYERS, n_head=HEADS, n_embd=D_MODEL, n_inner=D_MLP, vocab_size=VOCAB, rotary_dim=4, n_positions=64
    )
    return hf.GPTJForCausalLM(config)


def _gpt_neo() -> hf.PreTrainedModel:
    config = hf.GPTNeoConfig(
        num_layers=LAYERS, num_heads=HEADS, hidden_size=D_MODEL, intermediate_size=D_MLP, vocab_size=VOCAB,
        attention_types=[[["global", "local", "global"], 1]], window_size=4, max_position_embeddings=64,
    )  # fmt: skip
    return hf.GPTNeoForCausalLM(config)


def _opt() -> hf.PreTrainedModel:
    config = hf.OPTConfig(
        hidden_size=D_MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS, ffn_dim=D_MLP, vocab_size=VOCAB,
        word_embed_proj_dim=D_MODEL, max_position_embeddings=64,
    )  # fmt: skip
    return hf.OPTForCausalLM(config)


def _bloom() -> hf.PreTrainedModel:
    return hf.BloomForCausalLM(hf.BloomConfig(hidden_size=D_MODEL, n_layer=LAYERS, n_head=HEADS, vocab_size=VOCAB))


def _falcon() -> hf.PreTrainedModel:
    config = hf.FalconConfig(
        hidden_size=D_MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS, vocab_size=VOCAB, multi_query=True,
        parallel_attn=True, bias=True, new_decoder_architecture=False,
    )  # fmt: skip
    return hf.FalconForCausalLM(config)


def _of(name: str, sizes: dict[str, Any], *, model: str = "", **more: Any) -> Callable[[], hf.PreTrainedModel]:
    config, model = getattr(hf, f"{name}Config"), getattr(hf, f"{model or name}ForCausalLM")
    return lambda: model(config(**sizes, **more))


def _experts(name: str, sizes: dict[str, Any], **more: Any) -> Callable[[], hf.PreTrainedModel]:
    """A mixture of experts: each expert by itself, since the grouped product of torch knows no float64."""

    def make() -> hf.PreTrainedModel:
        model = _of(name, sizes, **more)()
        model.config._experts_implementation = "eager"
        return model

    return make


_FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_SMALL = {**_GQA, "intermediate_size": 20}

_LATENT = {
    **_SIZES, "num_key_value_heads": HEADS, "max_position_embeddings": 64, "q_lora_rank": 16, "kv_lora_rank": 12,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6,
}  # fmt: skip


def _llama4() -> hf.PreTrainedModel:
    sizes = {**_SMALL, "head_dim": 8, "intermediate_size_mlp": D_MLP, "num_local_experts": 4}
    return hf.Llama4ForCausalLM(hf.Llama4TextConfig(**sizes, num_experts_per_tok=2, moe_layers=[0, 2], pad_token_id=0))


EXPERTS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "mixtral": _experts("Mixtral", _SMALL, num_local_experts=4),
    "olmoe": _experts("Olmoe", _SMALL, num_experts=4, num_experts_per_tok=2),
    "qwen2_moe": _experts("Qwen2Moe", _GQA, **_FEW, shared_expert_intermediate_size=24, mlp_only_layers=[1]),
    "qwen3_moe": _experts("Qwen3Moe", {**_GQA, "head_dim": 16}, **_FEW),
    "gpt_oss": _experts("GptOss", {**_SMALL, "head_dim": 8}, num_local_experts=4, num_experts_per_tok=2),
    "granite_moe": _experts(
        "GraniteMoe", _SMALL, num_local_experts=4, num_experts_per_tok=2, residual_multiplier=0.3, logits_scaling=2.0
    ),
    "glm4_moe": _experts(
        "Glm4Moe", _GQA, **{**_FEW, "n_routed_experts": 4}, n_shared_experts=2, first_k_dense_replace=1, n_group=1,
        topk_group=1,
    ),
    "deepseek_v2": _experts(
        "DeepseekV2", _LATENT, **{**_FEW, "n_routed_experts": 4}, routed_scaling_factor=1.5, first_k_dense_replace=0
    ),
    "deepseek_v3": _experts(
        "DeepseekV3", _LATENT, **{**_FEW, "n_routed_experts": 4}, n_group=2, topk_group=1, first_k_dense_replace=1
    ),
    "ernie4_5_moe": _experts(
        "Ernie4_5_Moe", _GQA, moe_num_experts=4, moe_k=2, moe_intermediate_size=20, moe_num_shared_experts=1
    ),
    "afmoe": _experts("Afmoe", {**_GQA, "head_dim": 8}, **_FEW, num_dense_layers=1, num_shared_experts=1),
    "llama4": _llama4,
}  # fmt: skip
"""Mixtures of experts: with a shared expert, behind a gate or not; with dense layers among them; with biases, a clamped
gate and transposed weights; with a multiplier; with routers that no hook shows; with latent attention; with weights on
what experts read."""

_DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_MIXED = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}

HYBRIDS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "qwen3_next": _experts(
        "Qwen3Next", {**_GQA, "head_dim": 8}, **_FEW, **_DELTA, **_MIXED, shared_expert_intermediate_size=24
    ),
    "qwen3_5": lambda: hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**_GQA, head_dim=8, **_DELTA, **_MIXED)),
    "lfm2": _of("Lfm2", _GQA, block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv"]),
}
"""Models of which only layer 1 has softmax attention."""


def _gemma4(**more: Any) -> Callable[[], hf.PreTrainedModel]:
    """Blocks with scalars; two layers of full attention, whose heads may be of another size."""
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    sizes = {**_GEMMA, "global_head_dim": 16, "layer_types": kinds, "sliding_window": 4, "pad_token_id": 0}
    by_layer = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCAB, "num_kv_shared_layers": 0}

    def make() -> hf.PreTrainedModel:
        model = _experts("Gemma4Text", {**sizes, **by_layer, **more}, model="Gemma4")()
        for layer, scalar in zip(model.model.layers, SCALARS, strict=True):
            layer.layer_scalar.fill_(scalar)
        return model

    return make


SCALARS = (0.5, 1.25, 0.75)
"""What the blocks of Gemma 4 multiply the stream with."""

GEMMA4: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "gemma4": _gemma4(hidden_size_per_layer_input=8, num_kv_shared_layers=1),
    "gemma4_moe": _gemma4(
        attention_k_eq_v=True, num_global_key_value_heads=1, enable_moe_block=True, num_experts=4, top_k_experts=2,
        moe_intermediate_size=20,
    ),
}  # fmt: skip
"""With embeddings by layer and a last layer that attends to the values of the one before it; with values that are keys,
and experts beside the MLP."""

LATER: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "smollm3": _of("SmolLM3", _GQA, pad_token_id=0),
    "olmo3": _of("Olmo3", _GQA),
    "seed_oss": _of("SeedOss", {**_GQA, "head_dim": 8}),
    "apertus": _of("Apertus", _GQA),
    "exaone4": _of("Exaone4", _GQA),
    "hunyuan": _of("HunYuanDenseV1", {**_GQA, "head_dim": 8}, pad_token_id=0),
    "ernie4_5": _of("Ernie4_5", {**_GQA, "head_dim": 8}),
    "arcee": _of("Arcee", _GQA),
    "glm": _of("Glm", {**_GQA, "head_dim": 8}, pad_token_id=0),
    "glm4": _of("Glm4", {**_GQA, "head_dim": 8}, pad_token_id=0),
    "starcoder2": _of("Starcoder2", _GQA),
    "gpt_bigcode": lambda: hf.GPTBigCodeForCausalLM(
        hf.GPTBigCodeConfig(
            n_layer=LAYERS, n_head=HEADS, n_embd=D_MODEL, n_inner=D_MLP, vocab_size=VOCAB, n_positions=64
        )
    ),
    "mpt": lambda: hf.MptForCausalLM(
        hf.MptConfig(d_model=D_MODEL, n_layers=LAYERS, n_heads=HEADS, vocab_size=VOCAB, max_seq_len=64)
    ),
    "xglm": lambda: hf.XGLMForCausalLM(
        hf.XGLMConfig(
            d_model=D_MODEL,
            num_layers=LAYERS,
            attention_heads=HEADS,
            ffn_dim=D_MLP,
            vocab_size=VOCAB,
            max_position_embeddings=64,
        )
    ),
    "nemotron": _of("Nemotron", _GQA),
    "cohere2": _of("Cohere2", {**_GQA, "head_dim": 8}, logit_scale=0.5),
}
"""Dense decoders that follow the rules of those below, tried in fewer places."""

SINGLE = {"xglm"}
"""What transformers runs in single precision only."""

BUILDERS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "gpt2": _gpt2,
    "llama": _of("Llama", _GQA),
    "llama_head_dim": _of("Llama", {**_GQA, "head_dim": 16}),
    "neox_parallel": _of("GPTNeoX", _SIZES, use_parallel_residual=True, max_position_embeddings=64),
    "neox_sequential": _of("GPTNeoX", _SIZES, use_parallel_residual=False, max_position_embeddings=64),
    "gemma": _of("Gemma", _GEMMA),
    "gemma2": _of("Gemma2", _GEMMA, final_logit_softcapping=0.3, query_pre_attn_scalar=8),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_GEMMA)),
    "qwen2": _of("Qwen2", _GQA),
    "qwen3": _of("Qwen3", {**_GQA, "head_dim": 16}),
    "mistral": _of("Mistral", _GQA),
    "phi": _of("Phi", _SIZES, max_position_embeddings=64),
    "phi3": _of("Phi3", _GQA, pad_token_id=0),
    "opt": _opt,
    "gptj": _gptj,
    "bloom": _bloom,
    "falcon": _falcon,
    "olmo2": _of("Olmo2", _GQA),
    "gpt_neo": _gpt_neo,
    "stablelm": _of("StableLm", _GQA),
    "granite": _of("Granite", _GQA, residual_multiplier=0.3, logits_scaling=2.0, embedding_multiplier=3.0),
    "cohere": _of("Cohere", _GQA, logit_scale=0.5),
    "mixtral": EXPERTS["mixtral"],
}
UNWEIGHTED = {"olmo": _of("Olmo", _GQA), "nanochat": _of("NanoChat", _GQA)}
"""Architectures whose norms have no parameters, tried in fewer places."""

LATENT = ["deepseek_v2", "deepseek_v3"]
"""Mixtures with latent attention; values of latent attention have a width of their own."""

PARALLEL = {"neox_parallel", "phi", "gptj", "falcon", "cohere"}
DENSE = [name for name in BUILDERS if name != "mixtral"]
HAS_VALUE_BIAS = {"gpt2", "neox_parallel", "neox_sequential", "qwen2", "phi", "opt", "bloom", "falcon"}


@cache
def tokenizer() -> Any:
    """Words ``w0 .. w92`` and four special tokens; BOS stands before every text, as its files say."""
    specials = {"<bos>": 93, "<unk>": 94, "<pad>": 95, "<eos>": 96}
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(93)} | specials, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 93)])
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<bos>", pad_token="<pad>", eos_token="<eos>"
    )
    folder = Path(mkdtemp())
    made.save_pretrained(folder)  # TransformerLens reloads the tokenizer, so it must be on disk
    return hf.AutoTokenizer.from_pretrained(folder)


def perturbed(name: str, *, seed: int = 0) -> hf.PreTrainedModel:
    """A model of transformers with norms and biases perturbed, so that none of them is trivially one or zero."""
    torch.manual_seed(seed)
    model = (BUILDERS | UNWEIGHTED | EXPERTS | HYBRIDS | GEMMA4 | LATER)[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def saved(name: str, folder: Path) -> str:
    """A model and tokenizer written to a folder, in float32, to be booted from there."""
    perturbed(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def placed(rest: str | int, layers: list[str | int]) -> dict[str, str | int]:
    """A Llama's device map: where each layer lies, and the rest."""
    named = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")
    return {**dict.fromkeys(named, rest), **{f"model.layers.{i}": where for i, where in enumerate(layers)}}


def build(name: str, *, seed: int = 0, dtype: torch.dtype | None = None, compat: bool = False) -> TransformerBridge:
    """A perturbed model in float64."""
    dtype = dtype or (torch.float32 if name in SINGLE else torch.float64)
    model = perturbed(name, seed=seed).to(dtype)
    model.config.architectures = [type(model).__name__]
    bridge = TransformerBridge.boot_transformers(f"tiny-{name}", hf_model=model, tokenizer=tokenizer(), device="cpu")
    if compat:
        bridge.enable_compatibility_mode()
    return bridge


def native(**options: Any) -> TransformerBridge:
    """A model of TransformerLens' own, in float32."""
    sizes = {"d_model": D_MODEL, "d_head": 8, "n_heads": HEADS, "n_layers": LAYERS, "d_mlp": D_MLP, "d_vocab": VOCAB}
    torch.manual_seed(0)
    config = TransformerBridgeConfig(**sizes, n_ctx=64, act_fn="gelu", architecture="TransformerLensNative", **options)
    return TransformerBridge.boot_native(config)


def prompts(batch: int = 2, length: int = 7, *, seed: int = 1) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, 93, (batch, length), generator=torch.Generator().manual_seed(seed))


def run(name: str, *, batch: int = 2, length: int = 7, **options: Any) -> tuple[torch.Tensor, ActivationCache]:
    """Logits and cache of random prompts."""
    return build(name, **options).run_with_cache(prompts(batch, length))
