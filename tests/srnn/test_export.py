"""torch.export with dynamic batch, and with slice_len dynamic length; torch.compile; torch.jit.trace."""

import io

import pytest
import torch
from torch.export import Dim, export

from tests.srnn.test_module import CELLS
from tl_neuron_attr.srnn import SRNN, SRNNClassifier

pytestmark = [
    pytest.mark.usefixtures("as_installed"),
    pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning"),  # torch's own, of every exported nn.GRU
]
BATCH, STEPS = Dim("batch", min=1, max=64), Dim("steps", min=1, max=32)


def agree(program, srnn, *inputs):
    for actual, expected in zip(program.module()(*inputs)[1], srnn(*inputs)[1], strict=True):
        shared = expected.shape[1]
        torch.testing.assert_close(actual[:, :shared], expected, rtol=0, atol=1e-6)
        assert actual[:, shared:].eq(0).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("strict", [False, True])
def test_any_batch(cell, strict):
    srnn = SRNN(5, 4, n=2, k=2, cell=cell).eval()
    program = export(srnn, (torch.randn(3, 16, 5),), dynamic_shapes={"x": {0: BATCH}}, strict=strict)
    for batch in (1, 7, 64):
        agree(program, srnn, torch.randn(batch, 16, 5))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("strict", [False, True])
def test_any_length_with_slice_len(cell, strict):
    srnn = SRNN(5, 4, n=2, k=2, cell=cell, slice_len=8).eval()
    program = export(srnn, (torch.randn(3, 13, 5),), dynamic_shapes={"x": {0: BATCH, 1: STEPS}}, strict=strict)
    for batch, steps in ((1, 1), (7, 8), (64, 32), (2, 31)):
        agree(program, srnn, torch.randn(batch, steps, 5))


@pytest.mark.parametrize("cell", CELLS)
def test_any_lengths_with_slice_len(cell):
    srnn = SRNN(5, 4, n=2, k=2, cell=cell, slice_len=8).eval()
    shapes = {"x": {0: BATCH, 1: STEPS}, "lengths": {0: BATCH}}
    program = export(srnn, (torch.randn(3, 13, 5), torch.tensor([1, 5, 13])), dynamic_shapes=shapes)
    for batch, steps in ((1, 1), (7, 8), (64, 32)):
        agree(program, srnn, torch.randn(batch, steps, 5), torch.randint(1, steps + 1, (batch,)))


def test_more_steps_than_there_is_room_for_are_refused():
    srnn = SRNN(5, 4, n=2, k=2, slice_len=2).eval()
    with pytest.raises(ValueError, match="x has 9 steps, a compiled or exported module takes 8: cut x, or raise k"):
        export(srnn, (torch.randn(3, 9, 5),))


def test_the_classifier():
    model = SRNNClassifier(20, 3, embedding_size=6, hidden_size=4, n=2, k=2, slice_len=3).eval()
    shapes = {"ids": {0: BATCH, 1: Dim("words", min=1, max=12)}}
    program = export(model, (torch.randint(1, 21, (3, 7)),), dynamic_shapes=shapes)
    for batch, words in ((1, 1), (5, 12)):
        ids = torch.randint(1, 21, (batch, words))
        torch.testing.assert_close(program.module()(ids), model(ids), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_traced_it_computes_the_same():
    srnn = SRNN(5, 4, n=2, k=2)
    traced = torch.jit.trace(srnn, torch.randn(3, 16, 5))
    x = torch.randn(3, 16, 5)
    torch.testing.assert_close(traced(x)[0], srnn(x)[0], rtol=0, atol=1e-6)
    torch.jit.save(traced, io.BytesIO())


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("options", "steps"), [({}, 16), ({"slice_len": 5}, 17)])
def test_compiled_it_computes_the_same(cell, options, steps):
    torch._dynamo.reset()
    srnn = SRNN(5, 4, n=2, k=2, cell=cell, **options)
    compiled = torch.compile(srnn, backend="aot_eager")
    x = torch.randn(3, steps, 5, requires_grad=True)
    wanted, weight = [x, *srnn.parameters()], torch.randn(3, 4)
    (actual, _), (expected, _) = compiled(x), srnn(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    for a, e in zip(
        torch.autograd.grad((actual * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5)
