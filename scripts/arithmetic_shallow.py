"""Paper 3's shallow neurons on a real model that calculates (Tables 7 and 8): ``make results-real``.

Neurons whose writes mean numbers once attention has moved them are found in the weights and zeroed together, as many
random ones of the same layers beside, on arithmetic and on facts. Then the shallow neurons of logic chains are read
before and after the attention that moved them. Each section is written when it is done.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from arithmetic_neurons import known_cases
from arithmetic_real import GROUPS, decrease, outcomes
from facts_known import facts_known
from tables import markdown, measure

import tl_neuron_attr as tna
from tl_neuron_attr import cna
from tl_neuron_attr.cna import Case, ConceptNeurons, LogicChain
from tl_neuron_attr.cna.concepts import TOP_TOKENS
from tl_neuron_attr.model.components import MlpNeuron
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.intervals import interval, shown_interval
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.token_lists import listed

NUMBERS = "zero one two three four five six seven eight nine ten".split()
WORDS = [*map(str, range(10)), *NUMBERS, *"+ - * = plus minus times sum difference product".split()]
"""The concept, numbers and operations; the paper does not give its list."""

MORE_THAN = (0, 1, 2, 3, 10)
"""The paper's four, and one that leaves a few neurons in a vocabulary with many spellings of a number."""

DRAWS = 2
"""Sets of random neurons, averaged case by case."""


def random_beside(found: ConceptNeurons, chosen: list[MlpNeuron], seed: int) -> list[MlpNeuron]:
    """Return as many random neurons of each layer as were chosen there."""
    generator = torch.Generator().manual_seed(seed)
    by_layer = Counter(layer for _, layer, _ in chosen)
    drawn = {layer: torch.randperm(found.counts.shape[1], generator=generator)[:n] for layer, n in by_layer.items()}
    return [("mlp", layer, index) for layer, some in drawn.items() for index in some.tolist()]


def found_by_vocabulary(model: Any, kinds: dict[str, list[Case]], found: ConceptNeurons, seed: int) -> pd.DataFrame:
    """Return paper 3, Table 8: what zeroing all neurons of a concept costs each kind of case."""
    every = [case for cases in kinds.values() for case in cases]
    of = [kind for kind, cases in kinds.items() for _ in cases]
    before = outcomes(model, every)

    def after(neurons: list[MlpNeuron]) -> pd.DataFrame:
        with tna.ablate(model, neurons):
            return outcomes(model, every)

    rows: list[dict[str, Any]] = []
    for m in MORE_THAN:
        chosen = found.more_than(m)
        if not chosen:
            break
        drawn = [after(random_beside(found, chosen, seed + i)) for i in range(DRAWS)]
        sets = {"concept": after(chosen), "random": pd.concat(drawn).groupby(level=0).mean()}
        for name, left in sets.items():
            row: dict[str, Any] = {"more than": m, "neurons": len(chosen), "zeroed": name}
            for kind in kinds:
                mine = [each == kind for each in of]
                right = [runs["right"][mine].to_numpy() for runs in (before, left)]
                row[f"{kind}, % lost of {int(right[0].sum())}"] = decrease(*right)
            rows.append(row)
            print(row, flush=True)
    return pd.DataFrame(rows)


def words_among(promoted: tuple[tuple[str, ...], ...]) -> list[int]:
    """Return how many of the tokens of each list are words of the concept."""
    return [sum(token.strip().casefold() in WORDS for token in tokens) for tokens in promoted]


def read_moved(model: Any, chain: LogicChain, seed: int) -> list[dict[str, Any]]:
    """Return of each shallow neuron, and of a random one of its layer, the concept's words before and after its hop."""
    shallow, rows = chain.feature_enhancing, list[dict[str, Any]]()
    generator = torch.Generator().manual_seed(seed)
    n = len(shallow.neurons)
    index = torch.randint(model.cfg.d_mlp, (n,), generator=generator)
    either = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    random = Neurons.of_mlp(shallow.neurons.layer, index, coefficient=either, score=torch.zeros(n))
    hops = {hop.name: hop for hop in chain.feature_transferring.hops}
    for name, neurons in (("of the chain", shallow.neurons), ("random", random)):
        before = words_among(tna.top_tokens(model, neurons, TOP_TOKENS).promoted)
        moved = {
            i: words_among(tna.transformed_tokens(model, neurons, hop.layer, hop.head, k=TOP_TOKENS).promoted)
            for i, hop in enumerate(hops[hop_name] for hop_name in shallow.hops)
        }
        rows += [
            {"neurons": name, "before": before[i], "after": moved[hop][i]} for i, hop in enumerate(shallow.hop.tolist())
        ]
    return rows


def chains_read(model: Any, cases: list[Case], options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the concept's words before and after attention over all chains, and the shallow neurons of the first."""
    rows: list[dict[str, Any]] = []
    shown: list[pd.DataFrame] = []
    for i, case in enumerate(cases):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a chain that explains little says so; what is read here is its neurons
            chain = cna.logic_chain(
                model,
                torch.tensor(case.tokens),
                case.answer,
                head=options.head,
                shallow=options.shallow,
                progress=False,
            )
        rows += [{"case": i, **row} for row in read_moved(model, chain, options.seed + i)]
        frame = chain.feature_enhancing.to_frame().head(options.shown)
        frame[["before", "after"]] = frame[["before", "after"]].map(listed)
        shown.append(frame[["neuron", "token", "hop", "before", "after"]].assign(answer=chain.answer))
    by_case = pd.DataFrame(rows).groupby(["neurons", "case"])[["before", "after"]].mean()
    means = by_case.groupby("neurons").agg(lambda column: shown_interval(*interval(column), spec=".1f")).reset_index()
    return means, pd.concat(shown[: options.printed])


def sections(model: Any, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the tables with their titles."""
    kinds = {group: known_cases(model, group, options.cases, options.seed, options.prompt) for group in options.groups}
    if options.chains:
        some = [case for cases in kinds.values() for case in cases[: options.chains]]
        means, shown = chains_read(model, some, options)
        yield (
            f"Shallow neurons of {len(some)} chains: number words among their 50 first tokens (Table 7)",
            f"{markdown(means)}\n\nThe first neurons of {options.printed} chains:\n\n{markdown(shown)}",
        )
    facts = [
        Case(tuple(prompt_ids(model, text).tolist()), token) for text, token, _ in facts_known(model, options.facts)
    ]
    found = cna.concept_neurons(model, WORDS, layers=options.layers, attn_layers=options.attn_layers, progress=False)
    title = f"Neurons found by vocabulary alone, of {found.counts.numel()}, zeroed together (Table 8)"
    how = f"Words: {' '.join(WORDS)}. Layers {', '.join(map(str, found.layers))}."
    yield title, f"{how}\n\n{markdown(found_by_vocabulary(model, kinds | {'facts': facts}, found, options.seed))}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--groups", nargs="+", default=["1D+", "1D*"], choices=list(GROUPS))
    parser.add_argument("--prompt", default="shots", choices=["question", "shots"], help="how problems are asked")
    parser.add_argument("--cases", type=int, default=30, help="cases a group")
    parser.add_argument("--facts", type=int, default=40, help="facts that the same neurons are zeroed on")
    parser.add_argument("--layers", type=int, nargs="+", help="the neurons' layers; the lower half by default")
    parser.add_argument("--attn-layers", type=int, nargs="+", help="attention layers that move them; all of those")
    parser.add_argument("--chains", type=int, default=6, help="chains a group")
    parser.add_argument("--head", help="the chains' head; by default the one that carried most")
    parser.add_argument("--shallow", type=int, default=10, help="shallow neurons a chain")
    parser.add_argument("--shown", type=int, default=3, help="of these, those printed")
    parser.add_argument("--printed", type=int, default=2, help="chains whose neurons are printed")
    measure(parser, sections)


if __name__ == "__main__":
    main()
