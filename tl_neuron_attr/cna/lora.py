"""Low-rank adapters of one attention layer, trained on cases (paper 3, LoRA).

    W' = W + (alpha / rank) B A,    A: rank x in,  B: out x rank

for the query, key, value and output matrices of the layer; nothing else is trained. The paper gives neither rank nor
matrices (its 0.015 % of Llama-7B's parameters would be rank 32 on these four): both are our reading.
"""

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from random import Random
from typing import Any, TypedDict, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from typing_extensions import Unpack

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.cna.arithmetic_cases import Case, require_cases
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.active_edits import open_on, require_none
from tl_neuron_attr.model.batches import of_tokens
from tl_neuron_attr.model.within import within
from tl_neuron_attr.results.equality import EqualByData

MATRICES = ("q", "k", "v", "o")
_NAME = "tl_neuron_attr"


@typechecked_fields
@dataclass(frozen=True, repr=False, eq=False)
class Adapter(EqualByData):
    """A trained low-rank change of one attention layer.

    Attributes:
        layer: The layer.
        rank: The rank.
        alpha: The scale of the change, times the rank.
        factors: ``A`` and ``B`` of the matrices ``q``, ``k``, ``v``, ``o``.
        losses: The training loss of each step, in nats.
    """

    layer: int
    rank: int
    alpha: float
    factors: Mapping[str, tuple[Float[Tensor, "rank _"], Float[Tensor, "_ rank"]]]
    losses: tuple[float, ...] = ()

    @property
    def parameters(self) -> int:
        """Return how many numbers were trained."""
        return sum(factor.numel() for pair in self.factors.values() for factor in pair)

    @typechecked
    def change(self, matrix: str) -> Float[Tensor, "out in"]:
        """Return what is added to one of the matrices: ``(alpha / rank) B A``."""
        A, B = self.factors[matrix]
        return self.alpha / self.rank * (B @ A)

    @contextmanager
    def attached(self, model: Any) -> Generator[Any]:
        """Adapt the model while open; afterwards, also after an exception, it is bit for bit what it was.

        The change is merged into the weights, so every analysis sees the weights that are used.

        Raises:
            ValueError: If an adapter is already active, or the model's layer is of another shape.
            IndexError: If the model has no such layer.
            RuntimeError: On leaving, if the layer's weights were changed by something else meanwhile; they are put back
                all the same.
        """
        linears = _linears(model, self.layer)
        _require_no_adapter(model)
        weights = {name: linear.weight.detach() for name, linear in linears.items()}
        changes = {name: _as_stored(self.change(name), linears[name]) for name in weights}
        for name, weight in weights.items():
            if weight.shape != changes[name].shape:
                raise ValueError(
                    f"the adapter changes {tuple(changes[name].shape)} weights, {name} of layer {self.layer} of model "
                    f"has {tuple(weight.shape)}: it is an adapter of another model"
                )
        before = {name: weight.clone() for name, weight in weights.items()}
        merged = {name: before[name] + changes[name].to(before[name]) for name in weights}
        with open_on(model, "adapter"):
            for name, weight in weights.items():
                weight.copy_(merged[name])
            try:
                yield model
            finally:
                touched = [name for name, weight in weights.items() if not torch.equal(weight, merged[name])]
                for name, weight in weights.items():
                    weight.copy_(before[name])
        if touched:
            raise RuntimeError(
                f"{', '.join(touched)} of layer {self.layer} were changed while the adapter was attached; they are "
                "again as before it: undo edits before leaving"
            )

    def __repr__(self) -> str:
        last = f", loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}" if self.losses else ""
        return f"Adapter(layer {self.layer}, rank {self.rank}, {self.parameters} parameters{last})"


@typechecked
def train_lora(
    model: Any,
    cases: Sequence[Case],
    *,
    layer: int,
    rank: int = 8,
    alpha: float | int = 16,
    learning_rate: float = 1e-3,
    epochs: int = 4,
    steps: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Adapter:
    """Train a low-rank adapter of one attention layer on the answers of cases (paper 3, LoRA), with ``peft``.

    Afterwards the model is as it was, also after an exception: ``with adapter.attached(model): ...`` is the adapted
    model.

    Args:
        model: The model.
        cases: What to answer; batches are of cases of one length.
        layer: The layer adapted.
        rank: The rank of the change.
        alpha: The scale of the change, times the rank.
        learning_rate: Of AdamW, falling to zero by a cosine.
        epochs: How often each case is seen.
        steps: Stop after so many steps, if that is earlier.
        batch_size: Cases per step.
        seed: Of the first values and of the order of the cases; the same seed gives the same adapter.
        progress: Whether to show a progress bar.

    Raises:
        ImportError: If ``peft`` is missing.
        IndexError: If the model has no such layer.
        ValueError: If there is no case, an adapter is already active, a number is not positive, or ``rank`` is larger
            than the stream is wide.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, cna.problems("+", digits=1))
        >>> train_lora(model, cases, layer=2, rank=1, steps=2, progress=False).parameters
        1024
    """
    _require_peft()
    require_cases(cases)
    require_training(model, rank=rank, alpha=alpha, learning_rate=learning_rate, epochs=epochs, steps=steps)
    linears = _linears(model, layer)
    _require_no_adapter(model)
    enough = epochs if steps is None else min(epochs, steps)  # an epoch has a step at the least
    batches = _epochs(cases, enough, batch_size, seed)[:steps]
    losses: list[float] = []
    with _injected(model, layer, rank, float(alpha), seed) as layers, torch.enable_grad():
        trained = [parameter for each in layers.values() for parameter in each.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        bar = tqdm(batches, desc=f"LoRA, layer {layer}", unit="step", disable=not progress, mininterval=1)
        for indices, tokens in bar:
            answers = torch.tensor([cases[i].answer for i in indices], device=model.W_U.device)
            loss = F.cross_entropy(model(tokens.to(model.W_U.device))[:, -1], answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        factors = {name: _factors(layers[name]) for name in linears}
    return Adapter(layer, rank, float(alpha), factors, tuple(losses))


class Training(TypedDict, total=False):
    """How an adapter is trained: keywords of :func:`train_lora`, described there."""

    rank: int
    alpha: float | int
    learning_rate: float
    epochs: int
    steps: int | None
    batch_size: int


def require_training(model: Any, **training: Unpack[Training]) -> None:
    """Refuse what no adapter can be trained with.

    Raises:
        ValueError: If a number is not positive, or too large for the weights.
    """
    for name, value in training.items():
        if value is not None and not 0 < cast(float, value) < torch.finfo(torch.float32).max:
            raise ValueError(f"{name} must be positive, got {value}")
    rank, width = training.get("rank", 1), dimensions.d_model(model)
    if rank > width:
        raise ValueError(f"rank must be at most {width}, the width of the stream, got {rank}")


def _epochs(
    cases: Sequence[Case], epochs: int, batch_size: int, seed: int
) -> list[tuple[list[int], Int[Tensor, "batch pos"]]]:
    """Return which cases each step sees, and their tokens."""
    rng = Random(f"order {seed}")
    tokens = [torch.tensor(case.tokens) for case in cases]
    steps: list[tuple[list[int], Tensor]] = []
    for _ in range(epochs):
        order = rng.sample(range(len(cases)), len(cases))
        batches = of_tokens([tokens[i] for i in order], batch_size=batch_size)
        epoch = [([order[i] for i in batch.indices], batch.tokens) for batch in batches]
        rng.shuffle(epoch)
        steps += epoch
    return steps


@contextmanager
def _injected(model: Any, layer: int, rank: int, alpha: float, seed: int) -> Generator[dict[str, Any]]:
    """Put peft's layers in place of the four matrices while open, and train nothing else; put all back."""
    peft = import_module("peft")
    attention, linears = model.blocks[layer].attn, _linears(model, layer)
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    names = {id(module): name for name, module in attention.named_modules()}
    bridges = {name: getattr(attention, name) for name in linears}
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=[names[id(linear)] for linear in linears.values()]
    )
    with ExitStack() as stack:
        stack.enter_context(open_on(model, "adapter"))
        stack.callback(_put_back, attention, bridges, linears, trainable)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sees for itself how a weight is laid out
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, attention, adapter_name=_NAME)
        injected = {name: bridge.original_component for name, bridge in bridges.items()}
        adapted = {
            id(parameter) for each in injected.values() for n, parameter in each.named_parameters() if "lora" in n
        }
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in adapted)
        yield injected


def _put_back(
    attention: Any, bridges: Mapping[str, Any], linears: Mapping[str, Any], trainable: Mapping[Any, bool]
) -> None:
    for name, bridge in bridges.items():
        bridge.set_original_component(linears[name])
    vars(attention).pop("peft_config", None)
    for parameter, was in trainable.items():
        parameter.requires_grad_(was)
        parameter.grad = None


def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    A, B = (getattr(layer, name)[_NAME].weight.detach().clone() for name in ("lora_A", "lora_B"))
    return A, B


def _linears(model: Any, layer: int) -> dict[str, Any]:
    """Return the modules that hold a layer's query, key, value and output matrices, as the model uses them.

    Raises:
        IndexError: If there is no such layer.
        ValueError: If the layer's attention has no such matrices.
    """
    within("layer", layer, model.cfg.n_layers)
    attention = model.blocks[layer].attn
    found = {name: getattr(getattr(attention, name, None), "original_component", None) for name in MATRICES}
    if missing := [name for name, module in found.items() if getattr(module, "weight", None) is None]:
        raise ValueError(f"the attention of layer {layer} has no matrices {', '.join(missing)} to adapt")
    return found


def _as_stored(change: Float[Tensor, "out in"], linear: Any) -> Tensor:
    """Return a change laid out as the module keeps its weight: GPT-2's are transposed."""
    return change.T if type(linear).__name__ == "Conv1D" else change


def _active(model: Any) -> Iterator[str]:
    layer_class = import_module("peft.tuners.tuners_utils").BaseTunerLayer
    return (name for name, module in model.named_modules() if isinstance(module, layer_class))


def _require_no_adapter(model: Any) -> None:
    require_none(model, "adapter")
    if find_spec("peft") is not None and (name := next(_active(model), None)) is not None:
        raise ValueError(f"an adapter of model is already active, in {name}: merge it first (peft's merge_and_unload)")


def _require_peft() -> None:
    if find_spec("peft") is None:
        raise ImportError("training an adapter needs peft: pip install 'tl_neuron_attr[lora]'")
