"""What query neurons and faithfulness cost: ``python benchmarks/knowledge.py [--out FILE] [--quick]``.

1. ``query_layers`` and ``query_neurons`` of 30 value neurons against the forward pass that made the cache, on the shape
   of GPT-2 small.
2. ``faithfulness`` over 100 prompts of the bundled model: all methods but integrated gradients, and with them.
"""

import argparse
from pathlib import Path

import torch
from measure import machine, markdown, side_by_side
from models import gpt2, prompts
from tqdm import tqdm

import tl_neuron_attr as tna
from tl_neuron_attr.evaluate import METHODS, facts, faithfulness

K, TARGET = 30, 5


def query_table(quick: bool) -> str:
    """Compare query scores of 30 value neurons with ``run_with_cache``."""
    rows = []
    for site, length in tqdm([("both", 16)] if quick else [(s, n) for s in ("mlp", "attn", "both") for n in (16, 64)]):
        sites = ("mlp", "attn") if site == "both" else (site,)
        model, tokens = gpt2(), prompts(1, length)
        _, cache = model.run_with_cache(tokens)
        value = tna.value_neurons(cache, TARGET, K, sites=sites)
        forward, layers, neurons = side_by_side(
            {
                "forward": lambda model=model, tokens=tokens: model.run_with_cache(tokens),
                "layers": lambda cache=cache, value=value: tna.query_layers(cache, value),
                "neurons": lambda cache=cache, value=value: tna.query_neurons(cache, value, K),
            },
            runs=3 if quick else 11,
        ).values()
        row = (site, length, forward.median, layers.median, neurons.median, neurons.median / forward.median)
        rows.append((*row, neurons.peak_mib))
    headings = ("value neurons", "tokens", "forward s", "query layers s", "query neurons s", "query neurons / forward")
    return markdown((*headings, "peak MiB"), rows)


def faithfulness_table(quick: bool) -> str:
    """Time faithfulness over prompts of the bundled model, with two threads."""
    torch.set_num_threads(2)
    model = tna.demo.load()
    asked = [p for group in facts(per_type=2 if quick else 15).values() for p in group][:100]
    texts, targets = [p.prompt for p in asked], [p.target for p in asked]
    rows = []
    for name, methods in (
        ("all but integrated gradients", [m for m in METHODS if m != "integrated_gradients"]),
        ("all", list(METHODS)),
    ):
        run = lambda methods=methods: faithfulness(model, texts, targets, scores=methods, progress=False)  # noqa: E731
        (timing,) = side_by_side({"run": run}, runs=1 if quick else 3).values()
        rows.append((name, len(asked), timing.median, timing.peak_mib))
    return markdown(("methods", "prompts", "s", "peak MiB"), rows)


def main() -> None:
    """Measure and print; ``--out`` writes the tables as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer cases and runs: a smoke test, not a measurement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = f"Measured on {machine()}.\n\n### Query scores of 30 value neurons, 184,320 neurons in all\n\n"
    text += f"{query_table(args.quick)}\n\n### Faithfulness, bundled model, two threads\n\n"
    text += f"{faithfulness_table(args.quick)}\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
