"""Compare the numbers that the authors' notebooks printed with ours (paper 1, section 3; the values are in ``data/``).

The notebooks leave the bias of GPT-2's final norm out of the readout, and so does this comparison; everywhere else the
package keeps it. Prompt and BOS are the authors'.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import torch
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.knowledge.attribution import attribute_heads, attribute_layers
from tl_neuron_attr.knowledge.value_neurons import value_neurons
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import head_name
from tl_neuron_attr.model.stream import Stream
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results.neurons import Neurons
from tl_neuron_attr.results.table import PrintsAsTable, Table

Paper = Literal["gpt2-large", "llama-7b"]
BOOT_NAMES: dict[Paper, str] = {"gpt2-large": "gpt2-large", "llama-7b": "huggyllama/llama-7b"}
"""The names of the authors' models on the hub."""

_SIZES: dict[Paper, tuple[int, int, int]] = {"gpt2-large": (36, 1280, 50257), "llama-7b": (32, 4096, 32000)}
"""Layers, width and vocabulary, which tell the authors' models from others."""

_SEARCHED = 300
"""The number of value neurons per site among which the authors' are looked up."""

_BEGINNINGS = ("<s>", "<|endoftext|>")


@dataclass(frozen=True)
class Line:
    """One number of the notebook and ours, in nats; ours is None if the neuron is not among our best."""

    group: str
    name: str
    paper: float
    ours: float | None

    @property
    def difference(self) -> float:
        """The distance of the two; infinite if ours is missing."""
        return float("inf") if self.ours is None else abs(self.ours - self.paper)


@dataclass(frozen=True, repr=False, eq=False)
class Reproduction(PrintsAsTable):
    """All numbers compared.

    Attributes:
        model: The name of the notebook.
        lines: The comparisons, in the notebook's order.
        tolerance: The largest difference that counts as agreement, in nats.
    """

    model: str
    lines: tuple[Line, ...]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether every number is within the tolerance."""
        return all(line.difference <= self.tolerance for line in self.lines)

    def table(self) -> Table:
        """Return one row per number."""
        rows = [
            (x.group, x.name, x.paper, "-" if x.ours is None else x.ours, x.difference, x.difference <= self.tolerance)
            for x in self.lines
        ]
        verdict = "all within" if self.agrees else "NOT all within"
        return Table(
            ("what", "which", "notebook", "ours", "difference", "agrees"),
            [(*row[:-1], "yes" if row[-1] else "NO") for row in rows],
            f"{self.model}: {len(rows)} numbers, {verdict} {self.tolerance} nats",
        )


@typechecked
@torch.no_grad()
def reproduce(
    model: Any, values: Mapping[str, Any] | None = None, *, paper: Paper = "gpt2-large", tolerance: float = 0.02
) -> Reproduction:
    """Compare layers, heads and value neurons of the authors' notebook with ours.

    Args:
        model: The authors' model, booted.
        values: What the notebook printed; the package's copy by default.
        paper: The name of the notebook.
        tolerance: The largest difference that counts as agreement, in nats: the notebooks ran in half precision and
            printed three or four decimals.

    Raises:
        ValueError: If the model is not the authors', or its tokenizer does not read the prompt as theirs did.
    """
    if values is None:
        _require_paper_model(model, paper)
    printed = paper_values(paper) if values is None else values
    tokens = _tokens(model, printed)
    _, cache = model.run_with_cache(tokens)
    lines = tuple(line for group in (_layers, _heads, _mlp_neurons, _attn_neurons) for line in group(cache, printed))
    return Reproduction(paper, lines, tolerance)


def paper_values(paper: Paper) -> dict[str, Any]:
    """Return what the authors' notebook printed.

    Examples:
        >>> paper_values("gpt2-large")["target"]
        ' basketball'
    """
    text = files("tl_neuron_attr").joinpath("data/paper_values.json").read_text(encoding="utf-8")
    return json.loads(text)[paper]


def _require_paper_model(model: Any, paper: Paper) -> None:
    """Refuse a model of other sizes than the authors': its numbers would be compared with those of another."""
    sizes = (int(model.cfg.n_layers), dimensions.d_model(model), dimensions.d_vocab(model))
    if sizes != _SIZES[paper]:
        shown = "{} layers of width {} and a vocabulary of {}"
        raise ValueError(
            f"model {getattr(model.cfg, 'model_name', '')!r} is not {paper}: it has {shown.format(*sizes)},\n"
            f"and {BOOT_NAMES[paper]} has {shown.format(*_SIZES[paper])}"
        )


def _tokens(model: Any, printed: Mapping[str, Any]) -> torch.Tensor:
    tokens = prompt_ids(model, printed["prompt"], prepend_bos=printed["tokens"][0] in _BEGINNINGS)[None]
    read = [piece.strip() for piece in model.to_str_tokens(tokens[0])]
    expected = [piece.strip() for piece in printed["tokens"]]
    if read != expected:
        raise ValueError(f"model reads the prompt as {read}, the authors' as {expected}: this is not their tokenizer")
    return tokens


def _layers(cache: ActivationCache, printed: Mapping[str, Any]) -> Iterator[Line]:
    ours = attribute_layers(cache, printed["target_id"], final_bias=False)
    for key, scores in (("layer_increase_attn", ours.attn), ("layer_increase_ffn", ours.mlp)):
        for layer, value in printed[key].items():
            yield Line(key, f"L{layer}", value, float(scores[0, int(layer)]))


def _heads(cache: ActivationCache, printed: Mapping[str, Any]) -> Iterator[Line]:
    ours = attribute_heads(cache, printed["target_id"], final_bias=False)
    for layer, head, value in printed["head_increase_top"]:
        yield Line("head_increase_top", head_name(layer, head), value, float(ours[0, layer, head]))


def _mlp_neurons(cache: ActivationCache, printed: Mapping[str, Any]) -> Iterator[Line]:
    scores = _by_label(
        value_neurons(cache, printed["target_id"], _fitting(cache, "mlp"), sites=("mlp",), text=False, final_bias=False)
    )
    for layer, index, value in printed["ffn_neurons_top10"]:
        name = f"L{layer}N{index}"
        yield Line("ffn_neurons_top10", name, value, scores.get(name))


def _attn_neurons(cache: ActivationCache, printed: Mapping[str, Any]) -> Iterator[Line]:
    k = _fitting(cache, "attn")
    scores = _by_label(value_neurons(cache, printed["target_id"], k, sites=("attn",), text=False, final_bias=False))
    for layer, head, index, source, value in printed["attn_neurons_top (layer, head, dim, position)"]:
        name = f"{head_name(layer, head)}D{index}@{source}"
        yield Line("attn_neurons_top", name, value, scores.get(name))


def _fitting(cache: ActivationCache, site: Literal["mlp", "attn"]) -> int:
    """Return the number of neurons to search for: at most all that there are."""
    cfg: Any = cache.model.cfg
    width = cfg.d_mlp if site == "mlp" else cfg.n_heads * cfg.d_head * Stream(cache).shape[1]
    return min(_SEARCHED, cfg.n_layers * width)


def _by_label(neurons: Neurons) -> dict[str, float]:
    return dict(zip(neurons.flat_labels, neurons.score.flatten().tolist(), strict=True))
