"""What exact attribution costs: ``python benchmarks/attribution.py [--out FILE] [--quick]``.

1. The certified top k against the forward pass that made the cache.
2. The certified top k, and the scores of all neurons, against the published notebook's way: every neuron and source
   position materialised and scored against the whole vocabulary, measured on one layer and multiplied by the layers.
3. How the costs grow with neurons, vocabulary, prompt length and batch.

Every ratio is of medians of runs interleaved in this process.
"""

import argparse
from pathlib import Path

import torch
from measure import Timing, machine, markdown, side_by_side
from models import gpt2, prompts
from torch import Tensor
from tqdm import tqdm
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

import tl_neuron_attr as tna

K, LAYER, TARGET = 30, 6, 5
CHUNK = 1024
"""Rows of logits the notebook's way holds at a time."""


@torch.no_grad()
def notebook_layer(model: TransformerBridge, cache: ActivationCache, layer: int) -> tuple[Tensor, Tensor]:
    """MLP and attention neurons of a layer as the published notebook scores them, for the last token of one prompt."""
    block, scale = model.blocks[layer], cache["ln_final.hook_scale"][0, -1]
    post = cache[f"blocks.{layer}.mlp.hook_post"][0, -1]
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1]
    weighted = pattern[:, :, None] * cache[f"blocks.{layer}.attn.hook_v"][0].transpose(0, 1)
    attn = (weighted[..., None] * block.attn.W_O[:, None]).flatten(0, 2)
    mlp = post[:, None] * block.mlp.W_out
    bases = (cache[f"blocks.{layer}.hook_resid_mid"][0, -1], cache[f"blocks.{layer}.hook_resid_pre"][0, -1])

    def log_p(resid: Tensor) -> Tensor:
        normed = (resid - resid.mean(-1, keepdim=True)) / scale * model.ln_final.w + model.ln_final.b
        return (normed @ model.W_U).log_softmax(-1)[..., TARGET]

    def increase(base: Tensor, writes: Tensor) -> Tensor:
        return torch.cat([log_p(base + part) for part in writes.split(CHUNK)]) - log_p(base)

    return increase(bases[0], mlp), increase(bases[1], attn)


def all_neurons(cache: ActivationCache, layer: int) -> tuple[Tensor, Tensor]:
    """The same scores by the package."""
    return (
        tna.attribute_mlp_neurons(cache, TARGET, layers=[layer]),
        tna.attribute_attn_neurons(cache, TARGET, layers=[layer]),
    )


def top_k_table(quick: bool) -> str:
    """The certified top k against ``run_with_cache``."""
    rows = []
    cases = [(1.0, 1, 16), (1.0, 1, 64)] if quick else [
        (sharpness, batch, length)
        for sharpness in (1.0, 12.0)
        for batch, length in ((1, 16), (1, 64), (1, 256), (8, 16), (8, 64))
    ]  # fmt: skip
    for sharpness, batch, length in tqdm(cases, desc="top k"):
        model, tokens = gpt2(sharpness=sharpness), prompts(batch, length)
        _, cache = model.run_with_cache(tokens)
        forward, search = side_by_side(
            {
                "forward": lambda model=model, tokens=tokens: model.run_with_cache(tokens),
                "search": lambda cache=cache: tna.value_neurons(cache, TARGET, K),
            },
            runs=5 if quick else 11,
        ).values()
        evaluated = int(tna.value_neurons(cache, TARGET, K).evaluated.max())
        kind = "flat" if sharpness == 1 else "peaked"
        ratio = search.median / forward.median
        rows.append(
            (kind, batch, length, forward.median, search.median, ratio, evaluated, forward.peak_mib, search.peak_mib)
        )
    headings = ("predictions", "batch", "tokens", "forward s", "top 30 s", "ratio", "evaluated at most")
    return markdown((*headings, "forward peak MiB", "top 30 peak MiB"), rows)


def notebook_table(quick: bool) -> str:
    """The notebook's way against the package, on one layer; the two agree before anything is timed."""
    model, tokens = gpt2(), prompts(1, 16)
    _, cache = model.run_with_cache(tokens)
    batch = 8 if quick else 32
    _, many = model.run_with_cache(prompts(batch, 16))
    for slow_scores, scores in zip(notebook_layer(model, cache, LAYER), all_neurons(cache, LAYER), strict=True):
        torch.testing.assert_close(scores.flatten(), slow_scores, atol=1e-4, rtol=0)
    found = side_by_side(
        {
            "notebook": lambda: notebook_layer(model, cache, LAYER),
            "all": lambda: all_neurons(cache, LAYER),
            "batch": lambda: all_neurons(many, LAYER),
            "top": lambda: tna.value_neurons(cache, TARGET, K),
        },
        runs=1 if quick else 3,
    )
    layers = model.cfg.n_layers
    slow = found["notebook"].median * layers

    def row(name: str, timing: Timing, seconds: float) -> tuple[object, ...]:
        return name, seconds, slow / seconds, timing.peak_mib

    rows = [
        row("the notebook's way", found["notebook"], slow),
        row("all neurons, one prompt", found["all"], found["all"].median * layers),
        row(f"all neurons, a prompt of {batch}", found["batch"], found["batch"].median * layers / batch),
        row("certified top 30", found["top"], found["top"].median),
    ]
    return markdown(("184,320 neurons, 16 tokens", "s a prompt", "times faster", "peak MiB"), rows)


def growth_table(quick: bool) -> str:
    """How the certified top k and the scores of one layer's neurons grow."""
    small = {"n_layer": 4, "n_embd": 256, "n_head": 4}
    shape = {"n_inner": 1024, "vocab_size": 10_000}
    axes: list[tuple[str, dict[str, int], int, int]] = [("reference", shape, 1, 16)]
    axes += [(f"{n} MLP neurons a layer", shape | {"n_inner": n}, 1, 16) for n in (2048, 4096)]
    axes += [(f"vocabulary of {v:,}", shape | {"vocab_size": v}, 1, 16) for v in (20_000, 40_000)]
    axes += [(f"{length} tokens", shape, 1, length) for length in (64, 256)]
    axes += [(f"batch of {b}", shape, b, 16) for b in (4, 16)]
    rows = []
    for name, changed, batch, length in tqdm(axes[:3] if quick else axes, desc="growth"):
        model = gpt2(**small, **changed)
        _, cache = model.run_with_cache(prompts(batch, length, vocabulary=changed["vocab_size"]))
        found = side_by_side(
            {
                "top": lambda cache=cache: tna.value_neurons(cache, TARGET, K),
                "mlp": lambda cache=cache: tna.attribute_mlp_neurons(cache, TARGET, layers=[2]),
                "attn": lambda cache=cache: tna.attribute_attn_neurons(cache, TARGET, layers=[2]),
            },
            runs=5,
        )
        rows.append((name, *(1000 * found[way].median for way in ("top", "mlp", "attn"))))
    return markdown(("", "top 30 ms", "MLP neurons of a layer ms", "attention neurons of a layer ms"), rows)


def main() -> None:
    """Measure and print; ``--out`` writes the tables as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer cases and runs: a smoke test, not a measurement")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sections = {
        "Certified top 30 of 184,320 neurons against the forward pass": top_k_table,
        "Against the published notebook's way": notebook_table,
        "Growth, from 4 layers, d_model 256, 1,024 MLP neurons, vocabulary of 10,000, 16 tokens, batch 1": growth_table,
    }
    text = f"Measured on {machine()}.\n"
    for title, table in sections.items():
        text += f"\n### {title}\n\n{table(args.quick)}\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
