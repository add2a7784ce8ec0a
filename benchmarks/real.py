"""What scores cost on real models: ``python benchmarks/real.py [--out FILE] [--models NAME ...] [--tokens N ...]``.

Every call starts from a cache that is there, as the forward pass that made it does not; its cost stands beside them,
in the same process, medians of interleaved runs, in processor time, as other programs may share the machine. ``again``
means after the same call on the same scored cache. A model that is not installed is replaced by random weights of its
shape, which its name says. The peak of memory is that of the package's calls; the forward pass, whose logits at every
position may take more, has a row of its own.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Timing, machine, markdown, side_by_side
from models import booted, gpt2, prompts
from transformer_lens import ActivationCache
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import tl_neuron_attr as tna

MODELS = ("smollm2-135m", "gemma3-270m", "gpt2-small shape")
SUPPRESSING = "suppressing neurons, k = 30"


def model_named(name: str) -> tuple[str, object]:
    """The model, and what to call it in the table."""
    if name == "gpt2-small shape":
        return name, gpt2()
    try:
        return name, tna.load(name)
    except OSError:
        if name != "gemma3-270m":
            raise
        return "random weights of Gemma-3-270M's shape", gemma_shape()


def gemma_shape() -> object:
    """Random weights of the shape of Gemma-3-270M."""
    config = Gemma3TextConfig(
        vocab_size=262_144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    torch.manual_seed(0)
    return booted(Gemma3ForCausalLM(config).eval(), "gemma3-shaped")


def ways(model: object, tokens: torch.Tensor, cache: ActivationCache, target: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    used = tna.scored(cache, target)
    tna.value_neurons(used, k=30)
    return {
        "forward": lambda: model.run_with_cache(tokens),
        "tna.run, in place of the forward pass": lambda: tna.run(model, tokens),
        "layers": lambda: tna.attribute_layers(cache, target),
        "heads": lambda: tna.attribute_heads(cache, target),
        "head positions": lambda: tna.attribute_head_positions(cache, target),
        "value neurons, k = 30": lambda: tna.value_neurons(cache, target, 30),
        "value neurons again": lambda: tna.value_neurons(used, k=30),
        "layers again": lambda: tna.attribute_layers(used),
        SUPPRESSING: lambda: tna.value_neurons(cache, target, 30, largest=False),
        "report": lambda: tna.vis.report(cache, target),
    }


def table(name: str, lengths: list[int], runs: int) -> str:
    """Forward passes that each call costs, a column per length of the prompt."""
    shown, model = model_named(name)
    found: list[dict[str, Timing]] = []
    evaluated: list[int] = []
    for length in lengths:
        tokens = prompts(1, length, vocabulary=min(49_000, model.cfg.d_vocab))
        logits, cache = model.run_with_cache(tokens)
        target = int(logits[0, -1].argmax())
        timed = ways(model, tokens, cache, target)
        if length > 64:  # all sources of all heads: minutes
            timed = {way: call for way, call in timed.items() if way not in ("head positions", "report")}
        found.append(side_by_side(timed, runs=runs))
        evaluated.append(int(tna.value_neurons(cache, target, 30, largest=False).evaluated.max()))
    rows = [("forward with cache, s of processor time", *(each["forward"].cpu_median for each in found))]
    for way in [way for way in found[0] if way != "forward"]:
        ratios = [each[way].cpu_median / each["forward"].cpu_median if way in each else "-" for each in found]
        rows.append((way, *ratios))
    rows.append(("suppressing neurons scored exactly", *evaluated))
    own = [max(timing.peak_mib for way, timing in each.items() if way != "forward") for each in found]
    rows.append(("largest peak of these above the model and the cache, MiB", *own))
    rows.append(("peak of the forward pass, MiB", *(each["forward"].peak_mib for each in found)))
    return f"### {shown}\n\n" + markdown(("forward passes", *(f"{n} tokens" for n in lengths)), rows)


def main() -> None:
    """Measure and print; ``--out`` writes the tables as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[8, 64, 256])
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = f"Measured on {machine()}; medians of {args.runs} runs, processor time.\n"
    for name in args.models:
        text += "\n" + table(name, args.tokens, args.runs) + "\n"
        print(text, flush=True)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
