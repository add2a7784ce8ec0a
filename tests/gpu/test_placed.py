"""Weights on a GPU and elsewhere, or quantised there, give the scores of those in one place."""

import pytest
import torch
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests import architectures
from tests.every_score import scores
from tests.gpu.test_cuda import require_near

TOKENS = architectures.prompts()


def test_a_device_map_over_gpu_and_disk_is_refused_by_transformer_lens(tmp_path):
    """A map over the CPU and the disk, or over several GPUs, is what it takes."""
    folder, places = architectures.saved("llama", tmp_path / "model"), architectures.placed(0, [0, "cpu", "disk"])
    with pytest.raises(ValueError, match="mixes CPU/disk offload targets with a GPU target"):
        TransformerBridge.boot_transformers(folder, device_map=places, offload_folder=str(tmp_path / "disk"))


def test_bitsandbytes_in_4_bit(tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    folder = architectures.saved("llama", tmp_path / "model")
    model = TransformerBridge.boot_transformers(
        folder,
        hf_model=AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={"": 0}, dtype=torch.float32
        ),
        tokenizer=architectures.tokenizer(),
    )
    cache = model.run_with_cache(TOKENS.to("cuda"))[1]
    same = {key: each.cpu() for key, each in cache.cache_dict.items()}
    require_near(scores(cache), scores(ActivationCache(same, plain_of(model, folder))))


def plain_of(model, folder):
    """The same model on the CPU with the numbers that its quantised weights stand for."""
    import bitsandbytes as bnb

    plain = TransformerBridge.boot_transformers(folder, device="cpu")
    named = dict(plain.original_model.named_modules())
    for name, module in model.original_model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            named[name].weight.data = weight.to("cpu", torch.float32)
    return plain
