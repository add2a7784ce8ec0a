"""Neurons as a table and as a data frame, and the names they have there.

Everything is made of columns: the fields of :class:`~tl_neuron_attr.Neurons` as lists, prompts one after another.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tl_neuron_attr.numerics.sublayer import SITES
from tl_neuron_attr.results.neuron_file import EXPERT, PLACE
from tl_neuron_attr.results.neuron_text import NeuronText
from tl_neuron_attr.results.table import Table
from tl_neuron_attr.results.token_lists import listed
from tl_neuron_attr.results.token_text import visible

if TYPE_CHECKING:
    import pandas as pd

_Columns = Mapping[str, Sequence[Any]]

_MEASURES = {
    "coefficient": "coefficient",
    "score": "score",
    "effect": "effect",
    "target_logit": "target's logit",
    "target_rank": "target's rank",
}
"""The columns that a table shows, and what they are called there."""


def neuron_labels(columns: _Columns) -> list[str]:
    """Return the name of each neuron: its layer, its head or expert, its number, the position an attention neuron read.

    Examples:
        >>> neuron_labels({"site": [1, 0], "layer": [23, 21], "head": [-1, 0], "source": [-1, 3], "index": [6740, 79]})
        ['L23N6740', 'L21H0D79@3']
    """
    none = [-1] * len(columns["site"])
    experts = (columns.get(name, none) for name in EXPERT)
    return [
        _mlp_label(layer, i, expert, inner)
        if SITES[int(site)] == "mlp"
        else f"L{layer}H{head}D{i}" + (f"@{at}" if at >= 0 else "")
        for site, layer, head, at, i, expert, inner in zip(*(columns[name] for name in PLACE), *experts, strict=True)
    ]


def _mlp_label(layer: int, index: int, expert: int, inner: int) -> str:
    return f"L{layer}N{index}" if expert < 0 else f"L{layer}E{expert}N{inner}"


def neuron_keys(columns: _Columns) -> list[str]:
    """Return what :class:`NeuronText` knows each neuron by: its direction and its coefficient's sign."""
    signs = ("-" if c < 0 else "+" for c in columns["coefficient"])
    return [label.split("@")[0] + sign for label, sign in zip(neuron_labels(columns), signs, strict=True)]


def neuron_tokens(columns: _Columns, k: int, text: NeuronText | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return the token each neuron read and those it promotes, ``k`` neurons per prompt; nothing without text."""
    if text is None:
        return []
    return [
        (text.source(i // k, source), text.of(key))
        for i, (source, key) in enumerate(zip(columns["source"], neuron_keys(columns), strict=True))
    ]


def neuron_table(columns: _Columns, k: int, text: NeuronText | None) -> Table:
    """Return one row per neuron, ``k`` per prompt; of several prompts, the prompt comes first."""
    names, known = neuron_labels(columns), neuron_tokens(columns, k, text)
    several = len(names) > k
    measures = [name for name in _MEASURES if name in columns]
    rows = [
        (
            *((at // k,) if several else ()),
            at % k + 1,
            name,
            _source_text(known[at][0] if known else "", int(columns["source"][at])),
            *(columns[name][at] for name in measures),
            *((listed(known[at][1]),) if text else ()),
        )
        for at, name in enumerate(names)
    ]
    first, last = ("prompt",) if several else (), ("promotes",) if text else ()
    headings = [_MEASURES[name] for name in measures]
    followed = f"{text.followed}: " if text and text.followed else ""
    return Table((*first, "rank", "neuron", "source", *headings, *last), rows, f"{followed}scores in nats")


def neuron_frame(columns: _Columns, k: int, text: NeuronText | None, *, batched: bool) -> "pd.DataFrame":
    """Return one row per neuron, ``k`` per prompt, with everything the table shows; NA for what a neuron lacks."""
    import pandas as pd

    frame = pd.DataFrame({**columns, "site": [SITES[i] for i in columns["site"]]})
    for name in ("head", "source"):
        frame[name] = frame[name].astype("Int64").mask(frame[name] < 0)
    frame.insert(0, "neuron", neuron_labels(columns))
    frame.insert(0, "rank", [i % k + 1 for i in range(len(frame))])
    if batched:
        frame.insert(0, "prompt", [i // k for i in range(len(frame))])
    if text:
        known = neuron_tokens(columns, k, text)
        frame["source_token"] = [source for source, _ in known]
        frame["promoted"] = [list(promoted) for _, promoted in known]
    return frame


def _source_text(token: str, source: int) -> str:
    return "" if source < 0 else f"{visible(token)} @{source}".strip()
