"""The context of a neuron in a catalogue: where in a corpus it was strongest, with the sign it has in a prompt."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("positive_context", "negative_context")


def strongest_contexts(frame: "pd.DataFrame", catalogue: "Mapping[str, pd.DataFrame]") -> "pd.Series":
    """Return the text where each neuron of a frame was strongest, NA where the catalogue knows none.

    A neuron with a positive coefficient is shown where its activation was largest, one with a negative where it was
    lowest. Attention neurons have no contexts.

    Args:
        frame: Rows of :meth:`~tl_neuron_attr.Neurons.to_frame`.
        catalogue: A frame per layer, ``layer_00`` and so on, as a merged catalogue has them.

    Raises:
        TypeError: If ``catalogue`` is no mapping of frames.
        ValueError: If a table of ``catalogue`` is not a layer's, or lacks contexts or a neuron.
    """
    import pandas as pd

    given: Any = catalogue
    if not isinstance(given, Mapping) or not all(isinstance(table, pd.DataFrame) for table in given.values()):
        raise TypeError(f"catalogue must be what sweep.merge_study returns, got a {type(given).__name__}")
    for name, table in catalogue.items():
        if not re.fullmatch(r"layer_\d+", name) or not {"index", *_COLUMNS} <= set(table):
            raise ValueError(
                f"catalogue[{name!r}] is not a layer of a neuron catalogue; pass what sweep.merge_study returns of a "
                "CatalogueTask"
            )
    layers = {int(name.removeprefix("layer_")): _by_sign(table) for name, table in catalogue.items()}
    found = [
        _strongest(layers[layer], index, coefficient) if site == "mlp" and layer in layers else None
        for site, layer, index, coefficient in zip(
            *(frame[column].tolist() for column in ("site", "layer", "index", "coefficient")), strict=True
        )
    ]
    return pd.Series(found, index=frame.index, dtype="string")


def _by_sign(table: "pd.DataFrame") -> list[dict[int, list[str]]]:
    lists = [[list(contexts) for contexts in table[column]] for column in _COLUMNS]  # Parquet gives arrays
    return [dict(zip(table["index"].tolist(), each, strict=True)) for each in lists]


def _strongest(contexts: Sequence[Mapping[int, Sequence[str]]], index: int, coefficient: float) -> str | None:
    of_sign = contexts[coefficient < 0]
    if index not in of_sign:
        raise ValueError(
            f"catalogue has {len(of_sign)} neurons in a layer and no neuron {index}: it is of another model"
        )
    return of_sign[index][0] if len(of_sign[index]) else None
