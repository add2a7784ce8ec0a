"""Arguments of the wrong type are refused at the door, in three lines, by every public function."""

import inspect
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

import tl_neuron_attr as tna
from tl_neuron_attr._typechecked import typechecked

MODULES = (tna, tna.cna, tna.demo, tna.evaluate, tna.incontext, tna.srnn, tna.sweep, tna.vis)


def public_functions():
    found = {}
    for module in MODULES:
        for name in module.__all__:
            function = getattr(module, name)
            if inspect.isfunction(function):
                found[f"{module.__name__.removeprefix('tl_neuron_attr.')}.{name}"] = function
    return found


PUBLIC = public_functions()
ARGUMENTS = [
    (where, name)
    for where, function in PUBLIC.items()
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD  # has no name of its own
]


@pytest.fixture(scope="module")
def real():
    model = tna.demo.load()
    return model, model.run_with_cache("3 + 5 =")[1]


def fitting(hint: Any, real) -> Any:
    """The smallest value that an annotation allows."""
    model, cache = real
    if hint is tna.Neurons:
        return tna.value_neurons(cache, 5, 2)
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return model
    if hint is ActivationCache:
        return cache
    if origin in (Union, types.UnionType):
        return fitting(args[0], real)
    if origin is Literal:
        return args[0]
    if origin in (Sequence, list, tuple) and args:
        fixed = args[-1] is not Ellipsis if origin is tuple else False
        return tuple(fitting(each, real) for each in args) if fixed else origin() if origin is not Sequence else []
    if origin in (Mapping, dict):
        return {}
    if Callable in (hint, origin):
        return lambda *_: None
    if hasattr(hint, "dim_str"):
        sizes = [int(each) if each.isdigit() else 1 for each in hint.dim_str.split() if not each.startswith("*")]
        return torch.zeros(sizes, dtype=torch.int64 if "int" in hint.dtypes[-1] else torch.float32)
    if hint in (int, float, bool, str):
        return hint(1)
    return hint.__new__(hint) if isinstance(hint, type) else None


def takes(hint: Any, kind: Any) -> bool:
    return kind in (hint, get_origin(hint) if kind is Callable else None) or any(takes(e, kind) for e in get_args(hint))


@pytest.mark.parametrize("wrong", ["object", "module", "tuple"])
@pytest.mark.parametrize("where, name", ARGUMENTS, ids=lambda x: x)
def test_every_argument_of_every_public_function_is_refused_in_three_lines(where, name, wrong, real):
    function, value = PUBLIC[where], {"object": object(), "module": real[0].blocks[0].mlp, "tuple": (object(),)}[wrong]
    hints = get_type_hints(function, include_extras=True)
    if wrong in ("module", "tuple") and takes(hints.get(name), Callable if wrong == "module" else tuple):
        return  # a module can be called, and what a tuple of heads or components holds has tests of its own
    parameters = inspect.signature(function).parameters
    given = {
        other: fitting(hints.get(other, Any), real)
        for other, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_KEYWORD,)
    }
    began = time.perf_counter()
    with pytest.raises((TypeError, ValueError)) as raised:
        function(**{**given, name: value})
    assert time.perf_counter() - began < 1
    message = str(raised.value)
    assert len(message.splitlines()) <= 3 and len(message) < 500, message
    assert name in message, message


def test_a_wrong_model_is_refused(real):
    for wrong in (real[1], object(), torch.nn.Linear(1, 1), None):
        with pytest.raises(TypeError, match="ablate: model must be a TransformerBridge"):
            tna.ablate(wrong, [(0, 1)])


@typechecked
def doubled(x: Float[Tensor, "*b layer"], *, times: int = 2) -> Float[Tensor, "*b layer"]:
    return x * times


def test_right_shapes_pass():
    assert doubled(torch.ones(2, 3)).sum() == 12


@pytest.mark.parametrize(
    "bad, got",
    [
        (torch.tensor(1.0), r"a float32 Tensor of shape \(\)"),
        (torch.ones(2, dtype=torch.int64), r"an? int64 Tensor of shape \(2,\)"),
        ("x", "'x'"),
        (np.ones(3), r"a float64 ndarray of shape \(3,\)"),
    ],
)
def test_wrong_shapes_and_types_are_named(bad, got):
    with pytest.raises(TypeError, match=rf'doubled: x must be a tensor .* shape "\*b layer", got {got}'):
        doubled(bad)


def test_one_axis_has_one_size_within_a_call():
    @typechecked
    def paired(x: Float[Tensor, "a b"], y: Float[Tensor, "b"]) -> Float[Tensor, "a"]:
        return x @ y

    assert paired(torch.ones(2, 3), torch.ones(3)).shape == (2,)
    assert paired(torch.ones(2, 4), torch.ones(4)).shape == (2,)
    with pytest.raises(TypeError, match="y must be"):
        paired(torch.ones(2, 3), torch.ones(4))


def test_wrong_results_are_caught():
    @typechecked
    def wrong(x: Float[Tensor, "a b"]) -> Float[Tensor, "b a"]:
        return x

    with pytest.raises(TypeError, match="return value"):
        wrong(torch.ones(2, 3))


@typechecked
def shown(
    n: int = 0, share: float = 0.0, yes: bool = False, many: Sequence[int] = (), words: Sequence[str] = ()
) -> tuple[Any, ...]:
    return n, share, yes, many, words


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([[3]]).max()])
def test_integers_of_other_libraries_are_ints(three):
    for found in (shown(n=three)[0], shown(many=[three, 2])[3][0], shown(many=(three, 2))[3][0]):
        assert type(found) is int and found == 3
    assert shown(share=three)[1] == 3


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_floats_of_other_libraries_are_floats(value):
    assert isinstance(shown(share=value)[1], float) and shown(share=value)[1] == 0.5


@pytest.mark.parametrize(
    "argument",
    [
        {"n": True},
        {"n": np.bool_(True)},
        {"n": torch.tensor(True)},
        {"n": 3.0},
        {"n": torch.tensor(3.0)},
        {"n": torch.tensor([3])},
        {"n": "3"},
        {"share": True},
        {"share": "0.5"},
        {"yes": 1},
        {"yes": None},
        {"many": 3},
        {"many": [1, True]},
        {"many": [1] * 5000 + [1.5]},
        {"many": np.array([1, 2])},
        {"words": "abc"},
        {"words": ["a", 1]},
        {"unknown": 1},
    ],
)
def test_what_is_no_int_float_bool_or_list_is_refused(argument):
    with pytest.raises(TypeError, match=rf"shown: .*{next(iter(argument))}"):
        shown(**argument)


@pytest.mark.parametrize("wrong", [0, -1, 2**70])
def test_what_bounds_the_work_is_one_or_more(real, wrong):
    for name, call in (
        ("max_bytes", lambda given: tna.attribute_layers(real[1], 5, **given)),
        ("batch_size", lambda given: tna.head_effects(real[0], "3 + 5 =", 5, heads=[(0, 0)], **given)),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be between 1 and 2\*\*62, got {wrong}"):
            call({name: wrong})


def test_missing_arguments_name_the_function():
    with pytest.raises(TypeError, match="value_neurons: missing a required argument: 'cache'"):
        tna.value_neurons()


@pytest.mark.parametrize("pos", [-1, 3])
def test_a_token_and_a_position_may_be_what_argmax_gives(real, pos):
    model, cache = real
    target = model("3 + 5 =")[0, -1].argmax()
    expected = tna.attribute_layers(cache, int(target), pos=pos).mlp
    for given in (target, target.numpy(), np.int64(int(target))):
        for where in (np.int64(pos), torch.tensor(pos)):
            assert torch.equal(tna.attribute_layers(cache, given, pos=where).mlp, expected)


@pytest.mark.parametrize(
    "out, message", [("", "out is empty"), ("a\0b", "holds a NUL"), ("w" * 5000, "5000 characters"), ("\ud800", "lone")]
)
def test_a_path_that_names_nothing_is_refused_before_the_work(out, message):
    with pytest.raises(ValueError, match=message):
        written(out)


@typechecked
def written(out: str | Path) -> None:
    pytest.fail(f"worked for {out!r}")
