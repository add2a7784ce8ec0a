"""An adapter that learned nothing: a random change of the same matrices, of the same rank and size as a trained one."""

from dataclasses import replace

import torch
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.cna.lora import Adapter


@typechecked
def random_adapter(adapter: Adapter, seed: int = 0) -> Adapter:
    """Return a random adapter whose change of each matrix has the Frobenius norm of ``adapter``'s.

    Factors are drawn from a normal distribution. It is the control of
    :func:`~tl_neuron_attr.cna.coefficient_increase`: what the same amount of change does that no training aimed.

    Args:
        adapter: The trained adapter.
        seed: Of the draw.

    Examples:
        >>> from tl_neuron_attr import cna, demo
        >>> model = demo.load()
        >>> cases = cna.arithmetic_cases(model, cna.problems("+", digits=1, n=20))
        >>> trained = cna.train_lora(model, cases, layer=2, rank=1, steps=2, progress=False)
        >>> drawn = random_adapter(trained)
        >>> bool(torch.isclose(drawn.change("q").norm(), trained.change("q").norm()))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (A, B) in adapter.factors.items():
        new_A, new_B = (torch.randn(each.shape, generator=generator).to(each) for each in (A, B))
        drawn = (new_B @ new_A).norm()
        factors[name] = (new_A, new_B * ((B @ A).norm() / drawn))
    return replace(adapter, factors=factors, losses=())
