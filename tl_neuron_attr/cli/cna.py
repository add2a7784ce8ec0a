"""The commands ``cna`` and ``heads``: how an answer came about, and what each head is worth to it."""

from argparse import Namespace

import click

from tl_neuron_attr.cli.explained import (
    is_answer,
    load_model,
    print_explained,
    prompt_of,
    read_answer,
    read_prediction,
    target_of,
    tokens_of_prompt,
)
from tl_neuron_attr.cli.options import (
    command,
    count_option,
    format_option,
    option,
    page_option,
    position_option,
    prompt_options,
)
from tl_neuron_attr.cli.output import ready_page, show, write_page


def head(text: str) -> tuple[int, int]:
    """Return a head as the user writes it: ``L3H2`` or ``3,2``.

    Raises:
        click.BadParameter: If it is neither.

    Examples:
        >>> head("L3H2"), head("3,2")
        ((3, 2), (3, 2))
    """
    try:
        layer, number = text.strip().upper().removeprefix("L").replace("H", ",").split(",")
        return int(layer), int(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no head: write L3H2 or 3,2") from None


def cna_command() -> click.Command:
    """Return ``cna``."""
    return command(
        "cna",
        _chain,
        summary="Print how the answer came about, of several tokens a line for each, and write a page of it.",
        options=[
            *prompt_options(),
            option(
                "--head",
                type=head,
                show_default="the head whose zeroing costs most",
                help="the head followed: L3H2 or 3,2",
            ),
            count_option("-k", default=30, help="how many deep neurons"),
            count_option("--shallow", default=20, help="how many shallow neurons"),
            *page_option("cna.html"),
        ],
        examples=[
            'tl-neuron-attr cna "3 + 5 ="',
            'tl-neuron-attr cna "6 * 7 =" --head L3H2 --html chain.html --open',
            'tl-neuron-attr cna "Tim Duncan plays the sport of" --target " basketball ."',
        ],
    )


def heads_command() -> click.Command:
    """Return ``heads``."""
    return command(
        "heads",
        _heads,
        summary="Print what zeroing each head does to the prediction.",
        options=[*prompt_options(), position_option(), format_option(), *page_option()],
        examples=[
            'tl-neuron-attr heads "3 + 5 ="',
            'tl-neuron-attr heads "Tim Duncan plays the sport of" --target " basketball" --html heads.html',
        ],
    )


def _chain(args: Namespace) -> int:
    text, named = prompt_of(args), target_of(args)
    ready_page(args.html)
    from tl_neuron_attr import cna, vis
    from tl_neuron_attr.cna.logic_chains import ChainOptions
    from tl_neuron_attr.model.answer_tokens import Answer

    model = load_model(args)
    tokens = tokens_of_prompt(model, text, args)
    options = ChainOptions(head=args.head, k=args.k, shallow=args.shallow, progress=not args.quiet)
    if named is not None and is_answer(model, named):
        _, explained = read_answer(model, text, tokens, named, args)
        print(explained)
        answer = Answer.of(model, named)
        found = cna.logic_chains(model, tokens, answer, **options)
        page = vis.logic_chains(found, name=explained.model)
    else:
        target, explained = read_prediction(model, text, tokens, model(tokens), named, args)
        print(explained)
        found = cna.logic_chain(model, tokens, target, **options)
        page = vis.logic_chain(found, name=explained.model)
    show(found)
    write_page(args, page)
    return 0


def _heads(args: Namespace) -> int:
    text, named = prompt_of(args), target_of(args)
    ready_page(args.html)
    from tl_neuron_attr.cna import head_effects
    from tl_neuron_attr.model.answer_tokens import Answer

    model = load_model(args)
    tokens = tokens_of_prompt(model, text, args)
    target: int | Answer
    if named is not None and is_answer(model, named):
        _, explained = read_answer(model, text, tokens, named, args)
        target = Answer.of(model, named)
    else:
        target, explained = read_prediction(model, text, tokens, model(tokens), named, args)
    effects = head_effects(model, tokens[0], target, pos=args.pos, progress=not args.quiet)
    frame = effects.to_frame().drop(columns="prompt").sort_values("drop", ascending=False)
    print_explained(explained, effects, frame, args, rows="heads")
    if args.html is not None:
        from tl_neuron_attr.vis import head_effects as heat_map
        from tl_neuron_attr.vis.view import titled

        title = f"What zeroing each head does to {explained.target}"
        write_page(args, titled(heat_map(effects), title, str(explained)))
    return 0
