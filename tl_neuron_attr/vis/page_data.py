"""Everything a page shows, as JSON inside the page: for its tables to copy from, and to be downloaded."""

import json
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tl_neuron_attr.vis.head_rows import HeadRow
from tl_neuron_attr.vis.neuron_rows import NeuronRow


def page_data(data: Mapping[str, object]) -> Markup:
    r"""Return JSON that can stand inside a ``<script>`` element: no token in it opens or closes one.

    Examples:
        >>> page_data({"target": "</script>"})
        Markup('{"target": "\\u003c/script>"}')
    """
    return Markup(json.dumps(data, allow_nan=False).replace("<", r"\u003c"))


def records(rows: Sequence[NeuronRow | HeadRow]) -> list[dict[str, object]]:
    """Return the rows of a table with all their digits, one record each."""
    return [_of_neuron(row) if isinstance(row, NeuronRow) else _of_head(row) for row in rows]


def _of_neuron(row: NeuronRow) -> dict[str, object]:
    reads = row.source >= 0
    return {
        "rank": row.rank,
        "neuron": row.name,
        "site": row.site,
        "source": row.source if reads else None,
        "token": row.token if reads else None,
        "activation": row.coefficient,
        "score": row.score,
        **({} if row.effect is None else {"effect": row.effect}),
        **{f"adds to log p({text})": change for text, change in row.answers},
        **({"by_token": [score for _, score in row.by_token]} if row.by_token else {}),
        "target_rank": row.target_rank,
        **({} if row.target_logit is None else {"target_logit": row.target_logit}),
        **({} if row.switched_on_by is None else {"switched_on_by": row.switched_on_by.tokens}),
        "promoted": row.promoted.tokens,
        "suppressed": row.suppressed.tokens,
        **({"contexts": list(row.contexts)} if row.contexts else {}),
    }


def _of_head(row: HeadRow) -> dict[str, object]:
    return {
        "head": row.name,
        "score": row.score,
        "source": row.source,
        "token": row.token,
        "from_source": row.from_source,
        "attention": row.attention,
        "writes": row.writes.tokens,
        "target_rank": row.target_rank,
        "looks_there_for": [f"{query} x {key} {value:+.4f}" for query, key, value in row.reasons],
    }
