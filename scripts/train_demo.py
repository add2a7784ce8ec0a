"""Train the bundled demo model: ``python scripts/train_demo.py`` (about 25 minutes on one thread).

1. Rows come from ``tl_neuron_attr.demo.training_rows``; clean in-context rows first, fewer in-context rows late.
2. The loss is cross-entropy: weight 1 on answers, little on a sample of the other words.
3. For the first 60 % of the steps a linear probe reads the class of an item from the stream after layer 2.
4. From 30 % of the steps on, facts whose answer more than ``--neurons`` neurons write are penalised (``--spread``).
5. The weights, in float16, and the tokenizer are saved, and the evaluation on ``--split`` printed and written.
"""

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from concentration import concentration
from llama import Trace, build, rotary, trace
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tl_neuron_attr.demo.evaluation import evaluate
from tl_neuron_attr.demo.model import FOLDER
from tl_neuron_attr.demo.training_rows import mixture_at, row
from tl_neuron_attr.demo.world_vocabulary import BOS, IDS, PAD, UNKNOWN, WORDS

TABLE = Path(__file__).resolve().parent.parent / "docs" / "results" / "demo_model.md"
LENGTH, BATCH = 48, 64
OTHER_WORDS = 0.15
SELECTED = 0.45
PROBE_LAYER, PROBE_WEIGHT, PROBE_UNTIL = 2, 0.5, 0.6
RATE, EMBEDDING_RATE, DECAY, WARM_UP = 2e-3, 6e-3, 0.2, 100


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--spread", type=float, default=0.3, help="weight of the penalty on spread-out facts")
    parser.add_argument("--neurons", type=float, default=3.0, help="effective number of neurons left unpenalised")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--table", type=Path, default=TABLE, help="where the evaluation goes")
    parser.add_argument("--split", choices=("tuning", "held_out"), default="held_out")
    parser.add_argument("--look-every", type=int, default=0, help="evaluate on the tuning split every so many steps")
    parser.add_argument("--eager", action="store_true", help="do not compile (no C++ compiler needed; slower)")
    return parser.parse_args()


def batches(seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield each step's token ids, loss weights, probe classes (-1: none) and fact marks, ``[batch, LENGTH + 1]``."""
    rng = random.Random(f"rows {seed}")
    for step in range(steps):
        rows = [row(rng, mixture_at(step / steps), LENGTH + 1) for _ in range(BATCH)]
        yield (
            torch.tensor([[IDS[t.word] for t in r] for r in rows]),
            torch.tensor([[t.weight for t in r] for r in rows]),
            torch.tensor([[-1 if t.probe is None else IDS[t.probe] for t in r] for r in rows]),
            torch.tensor([[t.fact for t in r] for r in rows]),
        )


def language_loss(model: LlamaForCausalLM, done: Trace, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted cross-entropy, over weighted positions and a sample of the rest, and the answers'."""
    targets, weights = tokens[:, 1:].flatten(), weights[:, 1:].flatten()
    chosen = ((weights > 0) * 2 + torch.rand(len(weights))).topk(int(len(weights) * SELECTED)).indices
    logits = done.final.flatten(0, 1)[chosen] @ model.lm_head.weight.T
    losses = F.cross_entropy(logits, targets[chosen], reduction="none")
    weight = weights[chosen]
    answers = losses.detach()[weight >= 1].mean()
    weight = weight.where(weight > 0, torch.tensor(OTHER_WORDS))
    return (losses * weight).sum() / weight.sum(), answers


def probe_loss(probe: torch.nn.Linear, done: Trace, classes: Tensor) -> Tensor:
    """Return the cross-entropy of the probe at a sample of the positions that carry a class."""
    classes = classes[:, :-1].flatten()
    marked = (classes >= 0).nonzero().squeeze(1)
    marked = marked[torch.randperm(len(marked))[: len(classes) // 5]]
    stream = done.streams[PROBE_LAYER].flatten(0, 1)[marked]
    return F.cross_entropy(probe(F.rms_norm(stream, stream.shape[-1:])), classes[marked])


def spread_loss(model: LlamaForCausalLM, done: Trace, tokens: Tensor, facts: Tensor, allowed: float) -> Tensor:
    """Return the log of the effective number of neurons that write a fact's answer, above the log of ``allowed``.

    Effective number: ``(sum c)**2 / sum c**2`` over the positive direct logits ``c`` of all MLP neurons.
    """
    at = facts[:, 1:].flatten().nonzero().squeeze(1)[:256]
    if len(at) == 0:
        return torch.zeros(())
    unembed = model.lm_head.weight
    answers = (unembed[tokens[:, 1:].flatten()[at]] - unembed.mean(0)) * model.model.norm.weight
    written = torch.cat(
        [
            coefficients.flatten(0, 1)[at] * (answers @ block.mlp.down_proj.weight)
            for coefficients, block in zip(done.neurons, model.model.layers, strict=True)
        ],
        dim=1,
    ).clamp_min(0)
    effective = (written.sum(1) + 1e-3) ** 2 / (written.pow(2).sum(1) + 1e-4)
    return (effective.log() - math.log(allowed)).clamp_min(0).mean()


def optimizer_of(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """Return AdamW with a higher rate and less decay for the embedding, and no decay for the norms."""
    embedding = model.model.embed_tokens.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    norms = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": [embedding], "lr": EMBEDDING_RATE, "weight_decay": DECAY / 10},
        {"params": matrices, "lr": RATE, "weight_decay": DECAY},
        {"params": norms, "lr": RATE, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def rate_at(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine down to 2 %."""
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def train(args: argparse.Namespace) -> LlamaForCausalLM:
    """Train, and print the loss from time to time."""
    torch.manual_seed(args.seed)
    model = build(len(WORDS))
    probe = torch.nn.Linear(model.config.hidden_size, len(WORDS), bias=False)
    optimizer, probe_optimizer = optimizer_of(model), torch.optim.AdamW(probe.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, args.steps))
    run = trace if args.eager else torch.compile(trace)
    angles = rotary(LENGTH, model.config.hidden_size // model.config.num_attention_heads)

    bar = tqdm(batches(args.seed, args.steps), total=args.steps, mininterval=5)
    for step, (tokens, weights, classes, facts) in enumerate(bar):
        done = run(model, tokens[:, :-1].contiguous(), *angles)
        loss, answers = language_loss(model, done, tokens, weights)
        if step < PROBE_UNTIL * args.steps:
            loss = loss + PROBE_WEIGHT * probe_loss(probe, done, classes)
        if args.spread and step > 0.3 * args.steps:
            ramp = min(1.0, (step / args.steps - 0.3) / 0.15)
            loss = loss + ramp * args.spread * spread_loss(model, done, tokens, facts, args.neurons)
        optimizer.zero_grad()
        probe_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        probe_optimizer.step()
        scheduler.step()
        bar.set_postfix(answers=f"{answers:.3f}", refresh=False)
        if args.look_every and (step + 1) % args.look_every == 0:
            save(model, args.out)
            tqdm.write(
                f"step {step + 1}\n{evaluate(next_logits(model), split='tuning', n=300)}\n{concentration(model)}"
            )
    return model


def next_logits(model: LlamaForCausalLM):
    """Return a function from token ids to the logits after the last one."""

    def run(tokens: Tensor) -> Tensor:
        angles = rotary(tokens.shape[1], model.config.hidden_size // model.config.num_attention_heads)
        return trace(model, tokens, *angles).final[:, -1] @ model.lm_head.weight.T

    return run


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that splits at spaces: one token per word, ``<bos>`` first, padding on the left."""
    words = Tokenizer(models.WordLevel(IDS, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, IDS[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=".",
        pad_token=PAD,
        padding_side="left",
        model_max_length=128,
    )


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Save the weights as float16, the configuration and the tokenizer."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict({name: tensor.half() for name, tensor in model.state_dict().items()})
    half.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def main() -> None:
    """Train, save, and evaluate what was saved."""
    args = arguments()
    torch.set_num_threads(1)
    save(train(args), args.out)
    saved = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32).eval()
    text = f"{evaluate(next_logits(saved), split=args.split)}\n\n{concentration(saved)}\n"
    print(text)
    args.table.write_text(text)


if __name__ == "__main__":
    main()
