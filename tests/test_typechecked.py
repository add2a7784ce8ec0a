import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tl_neuron_attr._typechecked import typechecked


@typechecked
def doubled(x: Float[Tensor, "*b layer"], *, times: int = 2) -> Float[Tensor, "*b layer"]:
    return x * times


def test_right_shapes_pass():
    assert doubled(torch.ones(2, 3)).sum() == 12


@pytest.mark.parametrize("bad", [torch.tensor(1.0), torch.ones(2, dtype=torch.int64), "x"])
def test_wrong_shapes_and_types_are_named(bad):
    with pytest.raises(TypeError, match="'x'"):
        doubled(bad)
    with pytest.raises(TypeError, match="'times'"):
        doubled(torch.ones(1), times="3")


def test_wrong_results_are_caught():
    @typechecked
    def wrong(x: Float[Tensor, "a b"]) -> Float[Tensor, "b a"]:
        return x

    with pytest.raises(TypeError, match="return value"):
        wrong(torch.ones(2, 3))
