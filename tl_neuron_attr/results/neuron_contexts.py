"""The contexts of a neuron in a catalogue: where in a corpus it was strongest, with the sign it has in a prompt."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("positive_context", "negative_context")


def require_catalogue(catalogue: "Mapping[str, pd.DataFrame]") -> None:
    """Refuse tables that are not the layers of a neuron catalogue.

    Raises:
        TypeError: If ``catalogue`` is no mapping of frames.
        ValueError: If one of them is not a layer's.
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


def neuron_contexts(
    frame: "pd.DataFrame", catalogue: "Mapping[str, pd.DataFrame]", *, most: int
) -> list[tuple[str, ...]]:
    """Return the texts where each neuron of a frame was strongest, ``most`` at most, strongest first.

    A neuron with a positive coefficient is shown where its activation was largest, one with a negative where it was
    lowest. Attention neurons have no contexts, nor has a layer that the catalogue lacks.

    Args:
        frame: Rows of :meth:`~tl_neuron_attr.Neurons.to_frame`.
        catalogue: A frame per layer, ``layer_00`` and so on, as a merged catalogue has them.
        most: How many texts of each neuron.

    Raises:
        TypeError: If ``catalogue`` is no mapping of frames.
        ValueError: If a table of ``catalogue`` is not a layer's, or lacks contexts or a neuron.
    """
    require_catalogue(catalogue)
    layers = {int(name.removeprefix("layer_")): table.set_index("index") for name, table in catalogue.items()}
    return [
        _of_neuron(layers[layer], index, coefficient)[:most] if site == "mlp" and layer in layers else ()
        for site, layer, index, coefficient in zip(
            *(frame[column].tolist() for column in ("site", "layer", "index", "coefficient")), strict=True
        )
    ]


def strongest_contexts(frame: "pd.DataFrame", catalogue: "Mapping[str, pd.DataFrame]") -> "pd.Series":
    """Return the text where each neuron of a frame was strongest, NA where the catalogue knows none.

    See :func:`neuron_contexts`, whose errors it raises.
    """
    import pandas as pd

    found = neuron_contexts(frame, catalogue, most=1)
    return pd.Series([texts[0] if texts else None for texts in found], index=frame.index, dtype="string")


def _of_neuron(layer: "pd.DataFrame", index: int, coefficient: float) -> tuple[str, ...]:
    if index not in layer.index:
        raise ValueError(f"catalogue has {len(layer)} neurons in a layer and no neuron {index}: it is of another model")
    texts: Any = layer.at[index, _COLUMNS[coefficient < 0]]  # a list, or an array where it was read from Parquet
    return tuple(texts)
