"""The context of a neuron in a catalogue: where in a corpus it was strongest, with the sign it has in a prompt."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

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
        ValueError: If a table of ``catalogue`` is not a layer's, or lacks contexts or a neuron.
    """
    import pandas as pd

    for name, table in catalogue.items():
        if not re.fullmatch(r"layer_\d+", name) or not {"index", *_COLUMNS} <= set(table):
            raise ValueError(
                f"catalogue[{name!r}] is not a layer of a neuron catalogue; pass what sweep.merge_study returns of a "
                "CatalogueTask"
            )
    layers = {int(name.removeprefix("layer_")): table.set_index("index") for name, table in catalogue.items()}
    found = [
        _strongest(layers.get(layer), index, coefficient) if site == "mlp" else None
        for site, layer, index, coefficient in zip(
            frame["site"], frame["layer"], frame["index"], frame["coefficient"], strict=True
        )
    ]
    return pd.Series(found, index=frame.index, dtype="string")


def _strongest(table: "pd.DataFrame | None", index: int, coefficient: float) -> str | None:
    if table is None:
        return None
    if index not in table.index:
        raise ValueError(f"catalogue has {len(table)} neurons in a layer and no neuron {index}: it is of another model")
    contexts = table.at[index, _COLUMNS[coefficient < 0]]
    return contexts[0] if len(contexts) else None
