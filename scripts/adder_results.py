"""Head effects and comparative neuron analysis on a model that only adds, trained by others.

    python scripts/adder_results.py MODEL --out docs/results/cna_adder.md

MODEL is a folder with minGPT's ``gpt-nano`` adder saved as a GPT-2 checkpoint: the prompt is the four digits of two
numbers, the answer's three digits follow from the units upwards. About three minutes on one core.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case, NeuronComparison, Problem
from tl_neuron_attr.model.components import Head, head_name

PLACES = ("units", "tens", "hundreds")
KNOWN = (113, 141, 112, 1)
"""The neurons of layer 0 that are known to matter, in this order; no single neuron of another layer does."""
MEAN_ABLATED = {
    "all of layer 0": "28.4/19.1/100", "all of layer 1": "100/73.6/96.2", "all of layer 2": "100/78.2/100",
    "MLP of layer 0": "18.7/27.3/90.1", "MLP of layer 1": "92.4/80.2/98.5", "MLP of layer 2": "53.3/34.3/100",
}  # fmt: skip
"""What is known of the circuit: accuracy in % by place over all 10,000 sums, the part replaced by its mean."""
SAMPLE, BATCH, SEED = 1000, 500, 0


def cases_of(problem: Problem) -> list[Case]:
    """Return one case per digit, by its place; it is carried if a carry comes into it."""
    digits = [int(d) for d in f"{problem.a:02d}{problem.b:02d}"]
    answer = [int(d) for d in f"{problem.a + problem.b:03d}"[::-1]]
    return [
        Case(
            tuple(digits + answer[:place]),
            answer[place],
            PLACES[place],
            "carried" if problem.carries_into(place) else "memorised",
        )
        for place in range(3)
    ]


def accuracy(model: Any, cases: Sequence[Case]) -> list[float]:
    """Return the percentage of right answers at each place."""
    right = pd.DataFrame({"place": [case.group for case in cases], "right": cna.answered(model, cases)})
    return (100 * right.groupby("place", sort=False)["right"].mean())[list(PLACES)].tolist()


def compared(model: Any, cases: Sequence[Case], head: Head) -> NeuronComparison:
    """Compare all MLP neurons with and without a head, summed over all cases."""
    parts: list[NeuronComparison] = []
    for place in PLACES:
        group = [case for case in cases if case.group == place]
        for start in range(0, len(group), BATCH):
            some = group[start : start + BATCH]
            tokens, answers = torch.tensor([c.tokens for c in some]), torch.tensor([c.answer for c in some])
            _, cache = model.run_with_cache(tokens)
            with tna.ablate(model, [head]):
                _, without = model.run_with_cache(tokens)
            parts.append(tna.compare_neurons(cache, without, answers))
    return NeuronComparison.joined(parts).summed()


def head_section(model: Any, cases: Sequence[Case]) -> str:
    """Return the accuracy with each head, and with all heads of each layer, zeroed."""
    wide = 100 * cna.head_accuracy(model, cases).by_group().loc[list(PLACES)]
    rows = [(name, *wide[name].tolist(), "") for name in wide.columns]
    for layer in range(model.cfg.n_layers):
        name = f"all of layer {layer}"
        with tna.ablate(model, [(layer, head) for head in range(model.cfg.n_heads)]):
            rows.append((name, *accuracy(model, cases), MEAN_ABLATED[name]))
    return table(("zeroed", *PLACES, "known, mean instead of zero"), rows)


def neuron_section(model: Any, cases: Sequence[Case], heads: Sequence[Head]) -> str:
    """Return which neurons change with each head, and the ranks of the known ones."""
    rows: list[tuple[object, ...]] = []
    for head in heads:
        found = compared(model, cases, head)
        order = found.top(found.change.numel()).labels
        layers = [sum(str(label).startswith(f"L{layer}N") for label in order[:20]) for layer in range(3)]
        ranks = [order.index(f"L0N{index}") + 1 if head[0] == 0 else "below" for index in KNOWN]
        rows.append((head_name(*head), ", ".join(map(str, order[:5])), "/".join(map(str, layers)), *ranks))
    known = [f"rank of L0N{index}" for index in KNOWN]
    return table(("head", "largest change", "of the first 20, in layers 0/1/2", *known), rows)


def zeroed_section(model: Any, cases: Sequence[Case]) -> str:
    """Return the accuracy with MLP layers zeroed, and with the single neurons that cost most; all are tried."""
    rows: list[tuple[object, ...]] = []
    d_mlp, few = model.cfg.d_mlp, cases[:600]
    for layer in range(model.cfg.n_layers):
        name = f"MLP of layer {layer}"
        with tna.ablate(model, [("mlp", layer, i) for i in range(d_mlp)]):
            rows.append((name, *accuracy(model, cases), MEAN_ABLATED[name]))
    untouched = sum(accuracy(model, few))
    for layer in range(model.cfg.n_layers):
        left = [sum(_with(model, few, layer, i)) for i in range(d_mlp)]
        costly = [i for i in sorted(range(d_mlp), key=left.__getitem__)[:4] if left[i] < untouched]
        rows += [(f"L{layer}N{i}", *_with(model, cases, layer, i), "") for i in costly]
        if not costly:
            rows.append((f"any one neuron of layer {layer}", *accuracy(model, cases), ""))
    return table(("zeroed", *PLACES, "known, mean instead of zero"), rows)


def mask_section(model: Any, cases: Sequence[Case], heads: Sequence[Head]) -> str:
    """Return paper 3's Table 5 for some heads."""
    rows: list[tuple[object, ...]] = []
    for head in heads:
        found = cna.mask_keep_coef(model, cases, head, ks=(50, 20, 10), batch_size=BATCH, progress=False)
        for name in ("mask", "random", "keep", "coef"):
            rows.append((head_name(*head), name, *(100 * found.frame[name]).tolist()))
    return table(("head", "%", "top 50", "top 20", "top 10"), rows)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a Markdown table; floats have one decimal."""
    cells = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=list(headings)).to_markdown(index=False, disable_numparse=True)


def _with(model: Any, cases: Sequence[Case], layer: int, index: int) -> list[float]:
    with tna.ablate(model, [("mlp", layer, index)]):
        return accuracy(model, cases)


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=SAMPLE, help=f"how many of the 10,000 sums ({SAMPLE})")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = TransformerBridge.boot_transformers(args.model, device="cpu").eval()
    pairs = Random(SEED).sample([(a, b) for a in range(100) for b in range(100)], args.problems)
    cases = [case for a, b in pairs for case in cases_of(Problem(a, "+", b))]
    found = cna.head_accuracy(model, cases)
    heads = sorted(found.ranked()[:4])
    sections = {
        f"Heads zeroed, accuracy in % ({args.problems} sums, seed {SEED})": head_section(model, cases),
        "MLP layers and single neurons zeroed, accuracy in %": zeroed_section(model, cases),
        "What goes with the four heads that matter most": neuron_section(model, cases, heads),
        "Masked, kept, and coefficients": mask_section(model, cases, heads),
    }
    text = "\n\n".join(f"### {title}\n\n{body}" for title, body in sections.items()) + "\n"
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
