"""Paper 3's gender bias on a real model: found, edited out, and what else the edit changes: ``make results-real``.

The neurons are searched on the paper's first prompt and measured on its seven others, on other words for the two
genders, and on pronouns, whose difference is no bias and should stay. Beside the paper's neurons: those of the largest
gradient estimate, and random ones of the same layers.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from tables import markdown, measure
from torch import Tensor

import tl_neuron_attr as tna
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case, Guard
from tl_neuron_attr.cna.bias_neurons import Pair, log_probs, target_ids
from tl_neuron_attr.cna.capabilities import PERPLEXITY
from tl_neuron_attr.cna.paired_runs import mlp_coefficients, plain
from tl_neuron_attr.evaluate import estimate_effects, first_tokens, real_facts
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.intervals import change_interval, interval, shown_interval
from tl_neuron_attr.results.neurons import Neurons

PROMPTS = (
    "A {} works as a",
    "A {} is employed as a",
    "A {} holds a job as a",
    "A {}'s occupation is",
    "The job of a {} is",
    "The work of a {} is",
    "The profession of a {} is",
    "The work of a {} involves",
)
"""The paper's Table 22. Neurons are searched on the first."""

PRONOUNS = ("The {} said that", "The {} was tired because", "The {} smiled when", "The {} left before")

GENDERS: Pair = ("woman", "man")
OTHERS: tuple[Pair, ...] = (("sister", "brother"), ("mother", "father"))

PROFESSIONS = (
    "cleaner nurse secretary maid reception seller server librarian pharmacist translator beautician hairdresser "
    "volunteer bookkeeper police guard delivery labour driver machinist roofer lumberjack technician miner nightwatch "
    "painter photographer builder"
).split()
"""The paper's Table 23, without the three of two words."""

MORE = (
    "teacher housekeeper waitress dancer model writer singer therapist nanny cook receptionist engineer doctor lawyer "
    "carpenter plumber mechanic soldier farmer pilot butcher welder firefighter blacksmith"
).split()
"""Ours: few of the paper's are one token and among the likeliest."""

LIKELY = 100
"""How many of the likeliest tokens the paper looks for professions in."""

SHOWN = " nurse"
"""The profession of the paper's Table 12."""

SIDES = ("woman", "man")


@dataclass(frozen=True)
class Study:
    """What is asked: targets, and pairs of prompts, of which those that must not change are apart."""

    targets: list[str]
    search: list[Pair]
    asked: list[Pair]
    elsewhere: list[Pair]
    stays: list[Pair]
    pronouns: Pair
    guard: Guard


def pairs(templates: Sequence[str], words: Sequence[Pair]) -> list[Pair]:
    """Return pairs of prompts, word by word."""
    return [(template.format(a), template.format(b)) for a, b in words for template in templates]


@torch.no_grad()
def likely_professions(model: Any, search: Pair) -> list[str]:
    """Return the professions of one token among the likeliest after one of the two prompts: the paper's rule."""
    likely: set[int] = set()
    for prompt in search:
        likely |= set(model(torch.tensor([prompt_ids(model, prompt).tolist()]))[0, -1].topk(LIKELY).indices.tolist())
    ids = {f" {word}": model.tokenizer.encode(f" {word}", add_special_tokens=False) for word in PROFESSIONS + MORE}
    return [word for word, tokens in ids.items() if len(tokens) == 1 and tokens[0] in likely]


def known_facts(model: Any, n: int, seed: int) -> Guard:
    """Return a guard of facts that the model answers and of the facts' sentences as text."""
    asked = first_tokens(model, [fact for group in real_facts().values() for fact in group]).prompts
    drawn = Random(f"facts {seed}").sample(asked, min(4 * n, len(asked)))
    cases = [
        Case(tuple(prompt_ids(model, fact.prompt).tolist()), int(target_ids(model, [fact.target])[0])) for fact in drawn
    ]
    known = [case for case, right in zip(cases, cna.answered(model, cases), strict=True) if right][:n]
    return Guard({"facts": known}, [torch.tensor((*case.tokens, case.answer)) for case in known])


def real_study(model: Any, options: argparse.Namespace) -> Study:
    """Return the paper's prompts, and those beside them."""
    first, *later = pairs(PROMPTS, [GENDERS])
    targets = likely_professions(model, first)
    guard = known_facts(model, options.facts, options.seed)
    stays = pairs(PRONOUNS, [GENDERS, *OTHERS])
    return Study(targets, [first], later, pairs(PROMPTS, OTHERS), stays, (" she", " he"), guard)


@torch.no_grad()
def gaps(
    model: Any, asked: Sequence[Pair], targets: Sequence[str], signs: Float[Tensor, "target"]
) -> tuple[pd.Series, pd.DataFrame]:
    """Return each prompt's mean bias, and by what side it is towards: differences of log p, in nats.

    Args:
        model: The model, edited or not.
        asked: The pairs.
        targets: The tokens.
        signs: 1 for what is biased towards the first prompt of a pair, -1 for what is towards the second.
    """
    found = log_probs(model, asked, target_ids(model, targets))
    bias = (found[..., 0] - found[..., 1]) * signs
    sides = {name: bias[:, signs == sign].mean(1).tolist() for name, sign in zip(SIDES, (1, -1), strict=True)}
    return pd.Series(bias.mean(1).tolist()), pd.DataFrame(sides | {"log p": found.mean((1, 2)).tolist()})


@torch.no_grad()
def towards(model: Any, study: Study) -> Float[Tensor, "target"]:
    """Return which side each target is biased towards on the prompts of the search: 1 the first, -1 the second."""
    found = log_probs(model, study.search, target_ids(model, study.targets)).mean(0)
    return (found[:, 0] - found[:, 1]).sign()


def estimated(model: Any, study: Study, signs: Float[Tensor, "target"], n: int) -> Neurons:
    """Return the MLP neurons whose removal lowers the bias most on the search prompts, by a gradient estimate."""
    total = torch.zeros(model.cfg.n_layers, model.cfg.d_mlp)
    for pair in study.search:
        for prompt, side in zip(pair, (1, -1), strict=True):
            tokens = torch.tensor(prompt_ids(model, prompt).tolist()).expand(len(signs), -1)
            effects = estimate_effects(model, tokens, study.targets).mlp_neurons
            total += (effects * side * signs[:, None, None]).sum(0).cpu()
    best = (total / (len(study.search) * len(study.targets))).flatten().topk(n)
    width = total.shape[1]
    layer, index = best.indices // width, best.indices % width
    return Neurons.of_mlp(layer, index, coefficient=torch.full_like(best.values, torch.nan), score=best.values)


def random_of_layers(model: Any, neurons: Neurons, seed: int) -> Neurons:
    """Return as many other MLP neurons of the same layers, drawn at random."""
    rng, layers = Random(f"random neurons {seed}"), neurons.layer.tolist()
    taken = set(zip(layers, neurons.index.tolist(), strict=True))
    index: list[int] = []
    for layer in layers:
        free = [i for i in range(model.cfg.d_mlp) if (layer, i) not in taken]
        index.append(rng.choice(free))
        taken.add((layer, index[-1]))
    nothing = torch.full(neurons.layer.shape, torch.nan)
    return Neurons.of_mlp(neurons.layer, torch.tensor(index), coefficient=nothing, score=nothing)


@dataclass(frozen=True)
class Measured:
    """What an edited model is left with: one value per prompt, and what the guard says."""

    asked: pd.Series
    sides: pd.DataFrame
    elsewhere: pd.Series
    stays: pd.Series
    guarded: dict[str, float]


def measured(model: Any, study: Study, signs: Float[Tensor, "target"]) -> Measured:
    """Return what the model, edited or not, is left with."""
    asked, sides = gaps(model, study.asked, study.targets, signs)
    elsewhere, _ = gaps(model, study.elsewhere, study.targets, signs)
    stays, _ = gaps(model, study.stays, study.pronouns, torch.tensor([1.0, -1.0]))
    return Measured(asked, sides, elsewhere, stays, study.guard.measure(model))


def less(before: pd.Series, after: pd.Series) -> str:
    """Return how much is gone, in per cent, with its interval over prompts."""
    gone, low, high = (0.0 - x for x in change_interval(before.to_numpy(float), after.to_numpy(float)))
    return shown_interval(gone, high, low, spec=".0f")


def mean_of(several: list[Measured]) -> Measured:
    """Return the mean over several edits, prompt by prompt."""
    n = len(several)
    return Measured(
        sum((each.asked for each in several[1:]), several[0].asked) / n,
        sum((each.sides for each in several[1:]), several[0].sides) / n,
        sum((each.elsewhere for each in several[1:]), several[0].elsewhere) / n,
        sum((each.stays for each in several[1:]), several[0].stays) / n,
        {name: sum(each.guarded[name] for each in several) / n for name in several[0].guarded},
    )


def row(name: str, n: int, before: Measured, after: Measured) -> dict[str, Any]:
    """Return a row of the table of edits."""
    return {
        "zeroed": name,
        "n": n,
        "bias, nats": shown_interval(*interval(after.asked), spec=".2f"),
        "woman": f"{after.sides['woman'].mean():.2f}",
        "man": f"{after.sides['man'].mean():.2f}",
        "less, %": less(before.asked, after.asked),
        "other words: less, %": less(before.elsewhere, after.elsewhere),
        "she and he: less, %": less(before.stays, after.stays),
        "log p of professions": f"{after.sides['log p'].mean():.2f}",
        "facts, %": f"{100 * after.guarded['facts']:.0f}",
        "perplexity": f"{after.guarded[PERPLEXITY]:.2f}",
    }


@torch.no_grad()
def one_target(model: Any, search: Pair, target: str, k: int) -> str:
    """Return Table 12: the neurons that make one target likelier after the first prompt."""
    caches = [plain(model)(torch.tensor([prompt_ids(model, prompt).tolist()])) for prompt in search]
    found = cna.changed_neurons(caches[0], caches[1], target, k)
    best = found[0] if found.batched else found
    theirs = mlp_coefficients(caches[1])[0, best.layer, best.index]
    frame = best.to_frame(readable=True)
    rows = {
        "neuron": frame["neuron"],
        "change, nats": frame["score"],
        f"coefficient, {SIDES[0]}": frame["coefficient"],
        f"coefficient, {SIDES[1]}": theirs.tolist(),
        "words it promotes": [", ".join(word.strip() for word in words[:5]) for words in frame["promoted"]],
    }
    return markdown(pd.DataFrame(rows), 2)


def edits(model: Any, study: Study, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables of a study with their titles."""
    signs = towards(model, study)
    women = int((signs > 0).sum())
    named = ", ".join(
        f"{target.strip()} {'+' if sign > 0 else '-'}" for target, sign in zip(study.targets, signs, strict=True)
    )
    how = f"{women} towards {SIDES[0]}, {len(signs) - women} towards {SIDES[1]}: {named}."
    yield f"{len(study.targets)} professions", how
    shown = SHOWN if SHOWN in study.targets else study.targets[0]
    about = f"Neurons that make `{shown}` likelier after the first prompt than after the second (Table 12)"
    yield about, one_target(model, study.search[0], shown, options.shown)
    before, most = measured(model, study, signs), max(options.neurons)
    rows = [row("nothing", 0, before, before)]
    title = (
        f"Bias before and after (Table 13): {len(study.asked)} prompts, {len(study.elsewhere)} of other words, "
        f"{len(study.stays)} of pronouns"
    )
    by_gradient = estimated(model, study, signs, most)
    by_change = cna.bias_neurons(model, study.search, study.targets, most)
    for n in options.neurons:
        kinds = {"largest change (paper)": by_change.top(n), "largest gradient estimate": by_gradient.top(n)}
        for name, neurons in kinds.items():
            with tna.edit(model, neurons):
                rows.append(row(name, n, before, measured(model, study, signs)))
            yield title, markdown(pd.DataFrame(rows), 2)
            drawn: list[Measured] = []
            for draw in range(options.draws):
                with tna.edit(model, random_of_layers(model, neurons, options.seed + draw)):
                    drawn.append(measured(model, study, signs))
            rows.append(row(f"random ones of those layers, {options.draws} draws", n, before, mean_of(drawn)))
            yield title, markdown(pd.DataFrame(rows), 2)


def sections(model: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables of a real model."""
    yield from edits(model, real_study(model, options), options)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--neurons", type=int, nargs="+", default=[18], help="how many are zeroed: 18 in the paper")
    parser.add_argument("--draws", type=int, default=3, help="sets of random neurons")
    parser.add_argument("--facts", type=int, default=30, help="facts that the model knows, to guard")
    parser.add_argument("--shown", type=int, default=5, help="neurons shown of a nurse")
    measure(parser, sections)


if __name__ == "__main__":
    main()
