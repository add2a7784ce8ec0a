"""One score per layer and site."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.results.storage import load_tensors, require_finite_fields, require_shape, save_tensors
from tl_neuron_attr.results.table import PrintsAsTable, Table

if TYPE_CHECKING:
    import pandas as pd


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class LayerScores(PrintsAsTable):
    """One score per layer and site, in nats.

    Attributes:
        attn: The attention sublayers.
        mlp: The MLP sublayers.
        embed: The embedding, where it was scored too (query layers).
    """

    attn: Float[Tensor, "*b layer"]
    mlp: Float[Tensor, "*b layer"]
    embed: Float[Tensor, "*b"] | None = None

    def table(self) -> Table:
        """Return layers in rows; of a batch, the mean."""
        attn, mlp = (scores.reshape(-1, scores.shape[-1]).mean(0).tolist() for scores in (self.attn, self.mlp))
        rows = [(layer, a, m) for layer, (a, m) in enumerate(zip(attn, mlp, strict=True))]
        embed = [] if self.embed is None else [("embed", float(self.embed.mean()), None)]
        prompts = self.attn[..., 0].numel()
        batch = f", mean of {prompts} prompts" if prompts > 1 else ""
        return Table(("layer", "attn", "mlp"), [*embed, *rows], f"scores in nats{batch}")

    @typechecked
    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a JSON header; never a pickle, never half a file."""
        tensors = {name: getattr(self, name) for name in ("attn", "mlp", "embed") if getattr(self, name) is not None}
        save_tensors(path, "layer_scores", tensors, {})

    @classmethod
    @typechecked
    def load(cls, path: str | Path) -> "LayerScores":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is malformed, naming the field.

        Examples:
            >>> from tempfile import mkdtemp
            >>> import torch
            >>> path = Path(mkdtemp()) / "layers.safetensors"
            >>> LayerScores(torch.tensor([0.5]), torch.tensor([-0.5])).save(path)
            >>> LayerScores.load(path).mlp
            tensor([-0.5000])
        """
        tensors, _ = load_tensors(path, "layer_scores", {"attn": None, "mlp": None}, ("embed",))
        require_shape(path, tensors, "embed", tensors["attn"].shape[:-1])
        require_finite_fields(path, tensors)
        return cls(tensors["attn"], tensors["mlp"], tensors.get("embed"))

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per prompt, layer and site."""
        import pandas as pd

        grids = {"attn": self.attn, "mlp": self.mlp}
        rows = [
            {"prompt": prompt, "layer": layer, "site": site, "score": score}
            for site, grid in grids.items()
            for prompt, line in enumerate(grid.reshape(-1, grid.shape[-1]).tolist())
            for layer, score in enumerate(line)
        ]
        return pd.DataFrame(rows)
