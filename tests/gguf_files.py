"""Tiny GGUF files written from tiny random models, so that what is read can be compared with what was written."""

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

MERGES = ["Ġ t", "Ġt h", "Ġth e"]
TOKENS = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES), "<s>", "</s>"]
BOS, EOS = len(TOKENS) - 2, len(TOKENS) - 1
HEADS, KV = 4, 2


def llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=16,
        intermediate_size=96, vocab_size=len(TOKENS), max_position_embeddings=64, rms_norm_eps=1e-5,
        tie_word_embeddings=True, rope_theta=10_000.0, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order in which llama.cpp rotates pairs; transformers must undo it."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write(
    path: Path, model: LlamaForCausalLM, *, kind: gguf.GGMLQuantizationType | None = None, architecture: str = "llama",
    add_bos: bool | None = None, without: tuple[str, ...] = (), more: dict[str, str | float] | None = None,
) -> Path:  # fmt: skip
    """Write ``model`` as GGUF; ``kind`` quantises its matrices, ``without`` leaves tensors out, ``more`` adds keys."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if kind is None else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    for key, value in (more or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
    for name, values in tensors(model).items():
        if name in without:
            continue
        if kind is not None and values.ndim == 2:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    state = {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
    found = {"token_embd.weight": state["model.embed_tokens.weight"], "output_norm.weight": state["model.norm.weight"]}
    for layer in range(model.config.num_hidden_layers):
        for ours, theirs in NAMES.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                weight = interleaved(weight, HEADS if theirs == "attn_q" else KV)
            found[f"blk.{layer}.{theirs}.weight"] = np.ascontiguousarray(weight)
    return found


def quantised(model: LlamaForCausalLM, kind: gguf.GGMLQuantizationType) -> LlamaForCausalLM:
    """The model whose matrices are what the quantised ones stand for."""
    copy = llama()
    with torch.no_grad():
        for new, old in zip(copy.parameters(), model.parameters(), strict=True):
            if old.ndim == 2:
                new.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(old.detach().numpy(), kind), kind)))
    return copy
