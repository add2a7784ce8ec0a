"""The commands ``tl-neuron-attr cna`` and ``tl-neuron-attr heads``."""

import argparse
from pathlib import Path
from typing import Any

from tl_neuron_attr.cli.options import add_prompt, load_model, prediction, ready_page, tokens_of, warn_of_spelling


def add_cna(commands: Any) -> None:
    """Add both commands to what ``add_subparsers`` returned."""
    chain = commands.add_parser("cna", help="how the answer came about, from the tokens on: a table and one HTML page")
    add_prompt(chain)
    chain.add_argument("--head", type=head, help="L3H2 or 3,2; default: the head whose zeroing costs most")
    chain.add_argument("-k", type=int, default=30, help="how many deep neurons (30)")
    chain.add_argument("--shallow", type=int, default=20, help="how many shallow neurons (20)")
    chain.add_argument("--html", type=Path, default=Path("cna.html"), help="where the page goes (cna.html)")
    chain.set_defaults(run=run_chain)

    heads = commands.add_parser("heads", help="print what is left of the prediction with each head zeroed")
    add_prompt(heads)
    heads.add_argument("--pos", type=int, default=-1, help="the position scored (-1)")
    heads.add_argument("--format", choices=("table", "csv", "json"), default="table")
    heads.add_argument("--html", type=Path, help="also draw a heat map there")
    heads.set_defaults(run=run_heads)


def head(text: str) -> tuple[int, int]:
    """Return a head as the user writes it: ``L3H2`` or ``3,2``.

    Raises:
        ValueError: If it is neither.

    Examples:
        >>> head("L3H2"), head("3,2")
        ((3, 2), (3, 2))
    """
    layer, number = text.strip().upper().removeprefix("L").replace("H", ",").split(",")
    return int(layer), int(number)


def run_chain(args: argparse.Namespace) -> int:
    """Run ``cna``."""
    from tl_neuron_attr.cna import logic_chain
    from tl_neuron_attr.vis import logic_chain as page

    ready_page(args.html)
    model = load_model(args)
    tokens = tokens_of(model, args)
    warn_of_spelling(model, model(tokens), args)
    chain = logic_chain(model, tokens, args.target, head=args.head, k=args.k, shallow=args.shallow)
    print(chain)
    print(f"wrote {page(chain, name=str(model.cfg.model_name)).save(args.html).resolve()}")
    return 0


def run_heads(args: argparse.Namespace) -> int:
    """Run ``heads``."""
    from tl_neuron_attr.cna import head_effects

    if args.html is not None:
        ready_page(args.html)
    model = load_model(args)
    tokens = tokens_of(model, args)
    logits = model(tokens)
    warn_of_spelling(model, logits, args)
    target = prediction(logits, args.pos) if args.target is None else args.target
    effects = head_effects(model, tokens[0], target, pos=args.pos)
    frame = effects.to_frame().drop(columns="prompt").sort_values("drop", ascending=False)
    if args.format == "table":
        print(effects)
    elif args.format == "csv":
        print(frame.to_csv(index=False), end="")
    else:
        print(frame.to_json(orient="records", indent=2))
    if args.html is not None:
        from tl_neuron_attr.vis import head_effects as heat_map

        heat_map(effects).save(args.html)
    return 0
