"""Run as a process of its own: MiB by which each function's peak passes what was in use before it, as JSON.

Arguments: ``cache`` for the functions of a cache, ``model`` for those that run the model themselves.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path.cwd()))

import tl_neuron_attr as tna
from benchmarks.models import booted, prompts
from tl_neuron_attr import cna, evaluate, incontext

VOCABULARY, LENGTH, CAP = 50_000, 64, 16 * 2**20


def in_use(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def grown(function: Callable[[], object]) -> float:
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is no room to grow into
    Path("/proc/self/clear_refs").write_text("5")
    before = in_use("VmRSS")
    function()
    return in_use("VmHWM") - before


def of_cache(model: Any, tokens: torch.Tensor) -> dict[str, Callable[[], object]]:
    _, cache = model.run_with_cache(tokens)
    _, other = model.run_with_cache(tokens.flip(1))
    value = tna.value_neurons(cache, 5, 10, text=False)
    return {
        "attribute_layers": lambda: tna.attribute_layers(cache, 5, max_bytes=CAP),
        "attribute_heads": lambda: tna.attribute_heads(cache, 5, max_bytes=CAP),
        "attribute_head_positions": lambda: tna.attribute_head_positions(cache, 5, max_bytes=CAP),
        "attribute_attn_neurons": lambda: tna.attribute_attn_neurons(cache, 5, max_bytes=CAP, layers=[3]),
        "attribute_mlp_neurons": lambda: tna.attribute_mlp_neurons(cache, 5, max_bytes=CAP),
        "baseline_scores": lambda: tna.baseline_scores(cache, 5, score="rank", max_bytes=CAP),
        "scored": lambda: tna.scored(cache, 5, max_bytes=CAP),
        "value_neurons": lambda: tna.value_neurons(cache, 5, max_bytes=CAP),
        "query_neurons": lambda: tna.query_neurons(cache, value, max_bytes=CAP),
        "trace": lambda: tna.trace(cache, 5, k=10, max_bytes=CAP),
        "compare_neurons": lambda: tna.compare_neurons(cache, other, 5, max_bytes=CAP),
    }


def of_model(model: Any, tokens: torch.Tensor) -> dict[str, Callable[[], object]]:
    quiet: dict[str, Any] = {"progress": False, "max_bytes": CAP}
    rows = torch.randint(VOCABULARY, (24, LENGTH)).tolist()
    cases = [cna.Case(tuple(row), 5, "any") for row in rows]
    shots = (("a", 0), ("b", 1))
    for row in rows[:4]:
        row[3], row[7] = 5, 6
    few = [
        incontext.IclPrompt(tuple(row), shots, "c", 0, ("a", "b"), (5, 6), (3, 7), ((0, 3), (4, 7)), (8, LENGTH))
        for row in rows[:4]
    ]
    value = tna.value_neurons(model.run_with_cache(tokens)[1], 5, 10, text=False)[0]
    return {
        "head_effects": lambda: tna.head_effects(model, tokens, 5, **quiet),
        "head_accuracy": lambda: cna.head_accuracy(model, cases, heads=[(0, 0), (3, 2)], **quiet),
        "feature_predicting": lambda: cna.feature_predicting(model, tokens[0], 5, head=(1, 2), k=5, max_bytes=CAP),
        "logic_chain": lambda: cna.logic_chain(model, tokens[0], 5, head=(1, 2), k=5, max_bytes=CAP),
        "concept_neurons": lambda: cna.concept_neurons(model, ["<bos>"], top=5, **quiet),
        "verify": lambda: evaluate.verify(model, tokens[0], value, 5, **quiet),
        "important_neurons": lambda: evaluate.important_neurons(model, tokens[0], 5, 5, candidates=10, **quiet),
        "outcomes_without": lambda: incontext.outcomes_without(model, few, [[(0, 0)], [(3, 2)]], **quiet),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=4, n_embd=192, n_head=12, n_inner=256, vocab_size=VOCABULARY)
    model = booted(GPT2LMHeadModel(shape).eval(), "gpt2-shaped")
    functions = (of_cache if sys.argv[1] == "cache" else of_model)(model, prompts(1, LENGTH, vocabulary=VOCABULARY))
    functions[next(iter(functions))]()  # what is loaded on first use is not the function's
    print(json.dumps({name: grown(function) for name, function in functions.items()}))


if __name__ == "__main__":
    main()
