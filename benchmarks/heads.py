"""What head effects cost: ``python benchmarks/heads.py [--out FILE] [--quick]``.

All 144 heads of a GPT-2-small-shaped model, one prompt, three ways:

1. ``head_effects``: many heads in one run, the layers below a head not run again, one position unembedded;
2. one whole forward pass a head, the head zeroed by a hook;
3. a copy of the model for each head, its columns of ``W_O`` zeroed, as the authors' notebook does.

Ways 2 and 3 are timed on one head of each layer, and on two heads, and multiplied. All three agree before anything is
timed. Every ratio is of medians of runs interleaved in this process.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import machine, markdown, side_by_side
from models import gpt2, prompts
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna

TARGET = 5
Head = tuple[int, int]


@torch.no_grad()
def by_hooks(model: TransformerBridge, tokens: Tensor, heads: Sequence[Head]) -> Tensor:
    """Run the whole model once per head."""
    found = []
    for layer, head in heads:
        with tna.ablate(model, [(layer, head)]):
            found.append(model(tokens)[0, -1].log_softmax(-1)[TARGET])
    return torch.stack(found)


@torch.no_grad()
def by_copies(model: TransformerBridge, tokens: Tensor, heads: Sequence[Head]) -> Tensor:
    """Copy the model once per head and run the copy."""
    found = []
    for layer, head in heads:
        changed = copy.deepcopy(model)
        changed.blocks[layer].attn.W_O[head] = 0
        found.append(changed(tokens)[0, -1].log_softmax(-1)[TARGET])
    return torch.stack(found)


def table(quick: bool) -> str:
    """Return the seconds for all heads, and how many times faster ``head_effects`` is than the other ways."""
    model = gpt2(n_layer=4) if quick else gpt2()
    layers, per_layer = model.cfg.n_layers, model.cfg.n_heads
    sampled = [(layer, layer % per_layer) for layer in range(layers)]
    copied = [sampled[0], sampled[-1]]
    rows = []
    for length in (16, 32):
        tokens = prompts(1, length)
        found = tna.head_effects(model, tokens, TARGET, progress=False).log_prob[0]
        for way, heads in ((by_hooks, sampled), (by_copies, copied)):
            expected = way(model, tokens, heads)
            ours = torch.stack([found[head] for head in heads])
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
        timing = side_by_side(
            {
                "ours": lambda tokens=tokens: tna.head_effects(model, tokens, TARGET, progress=False),
                "hooks": lambda tokens=tokens: by_hooks(model, tokens, sampled),
                "copies": lambda tokens=tokens: by_copies(model, tokens, copied),
            },
            runs=1 if quick else 5,
        )
        ours, hooks, copies = timing["ours"].median, timing["hooks"].median * per_layer, timing["copies"].median
        copies *= layers * per_layer / len(copied)
        rows.append((length, ours, hooks, hooks / ours, copies, copies / ours))
    headings = ("tokens", "head_effects s", "a forward a head s", "times faster", "a copy a head s", "times faster")
    return markdown(headings, rows)


def main() -> None:
    """Measure and print; ``--out`` writes the table as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a smaller model, one run: a smoke test, no measurement")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    text = f"Measured on {machine()}.\n\n### All heads of a GPT-2-small-shaped model\n\n{table(args.quick)}\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
