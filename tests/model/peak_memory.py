"""Run as a process of its own: MiB by which one function's peak passes what was in use before it."""

import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path.cwd()))

import tl_neuron_attr as tna
from benchmarks.models import booted, prompts


def in_use(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=4, n_embd=192, n_head=12, n_inner=256, vocab_size=50_000)
    model = booted(GPT2LMHeadModel(shape).eval(), "gpt2-shaped")
    _, cache = model.run_with_cache(prompts(1, 64, vocabulary=50_000))
    tna.attribute_layers(cache, 5)  # what is loaded on first use is not the function's
    Path("/proc/self/clear_refs").write_text("5")
    before = in_use("VmRSS")
    extra = {"layers": [3]} if sys.argv[1] in ("attribute_attn_neurons", "attribute_mlp_neurons") else {}
    getattr(tna, sys.argv[1])(cache, 5, max_bytes=16 * 2**20, **extra)
    print(in_use("VmHWM") - before)


if __name__ == "__main__":
    main()
