import copy
import importlib
import pickle
import pkgutil

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr.results.equality import same
from tl_neuron_attr.results.table import PrintsAsTable


@pytest.mark.parametrize(
    "make, other",
    [
        (lambda: torch.arange(3), torch.arange(4)),
        (lambda: torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (lambda: torch.tensor([1, torch.nan]), torch.tensor([torch.nan, 1])),
        (lambda: torch.tensor([True, False]), torch.tensor([True, True])),
        (lambda: np.array([1, np.nan]), np.array([np.nan, 1])),
        (lambda: np.array(["a", None]), np.array(["a", "b"])),
        (lambda: [float("nan")], [0.0]),
        (lambda: np.arange(3), np.arange(3)[::-1]),
        (lambda: pd.DataFrame({"a": [1, None]}), pd.DataFrame({"a": [1, 2.0]})),
        (lambda: {"a": [torch.ones(1), "b"]}, {"a": [torch.zeros(1), "b"]}),
        (lambda: {"a": 1}, {"b": 1}),
        (lambda: (1, 2), [1, 2]),
        (lambda: nx.path_graph(3), nx.path_graph(4)),
        (lambda: "text", "other"),
        (lambda: None, 0),
    ],
)
def test_values_are_the_same_only_if_they_are_equal_all_the_way_down(make, other):
    assert same(make(), make())
    assert not same(make(), other) and not same(other, make())


def every_result():
    for module in pkgutil.walk_packages(tna.__path__, "tl_neuron_attr."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return PrintsAsTable.__subclasses__()


def test_every_result_is_compared_by_its_data():
    """A dataclass that makes its own ``==`` can't compare tensors or frames."""
    own = [cls for cls in every_result() if cls.__eq__ is not PrintsAsTable.__eq__ and cls is not tna.Neurons]
    assert not own, f"decorate with eq=False: {own}"


@pytest.mark.parametrize("make", [
    lambda model, k: tna.head_effects(model, "3 + 5 =", "8", heads=[(0, k)], progress=False),
    lambda model, k: tna.cna.logic_chain(model, "3 + 5 =", head=(3, 2), k=2 + k, shallow=2, hops=1),
    lambda model, k: tna.incontext.outcomes(model, prompts_of(model, 2 + k)),
    lambda model, k: tna.incontext.batch_of(model, prompts_of(model, 2 + k)),
    lambda model, k: tna.incontext.function_vector(model, prompts_of(model, 4), [(3, k)]),
    lambda model, k: tna.cna.train_lora(model, cases_of(model), layer=2, rank=1 + k, steps=1, progress=False),
])  # fmt: skip
def test_results_are_pickled_copied_and_compared(make):
    """Also where some numbers were not measured, and where a run is kept: without its model."""
    model = tna.demo.load()
    found, other = make(model, 0), make(model, 1)
    pickled = pickle.dumps(found)
    assert found == found and found == pickle.loads(pickled) == copy.deepcopy(found) == make(model, 0)
    assert found != other and found != None and found != "found"  # noqa: E711
    assert len(pickled) < 2**22 and str(pickle.loads(pickled)) == str(found)


def prompts_of(model, n):
    return tna.incontext.from_demo(model, tna.demo.in_context(n, 2, counts=(1, 1)))


def cases_of(model):
    return tna.cna.arithmetic_cases(model, [tna.cna.Problem(3, "+", 5)])


def test_results_of_one_call_are_equal_and_of_another_not():
    model = tna.demo.load()
    _, cache = model.run_with_cache("Tim Duncan plays the sport of")
    for name in ("attribute_layers", "trace"):
        found, again = (getattr(tna, name)(cache, " basketball") for _ in range(2))
        assert found == again == copy.deepcopy(found)
        assert found != getattr(tna, name)(cache, " baseball")
