import pytest
import torch

from tl_neuron_attr.numerics import ranked_tokens as module
from tl_neuron_attr.numerics.ranked_tokens import ranked_embeddings, ranked_tokens
from tl_neuron_attr.numerics.readout import Norm, Readout


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("width", [7, 50, 1024])
def test_both_ends_and_the_rank_are_those_of_sorting_all_logits(monkeypatch, centred, width):
    monkeypatch.setattr(module, "_CHUNK", 0)
    monkeypatch.setattr(module, "_NARROWEST", width)
    torch.manual_seed(0)
    norm = Norm(torch.rand(8).double() + 0.5, torch.ones(1).double(), centred)
    readout = Readout(torch.randn(8, 50).double(), norm, torch.zeros(8).double(), torch.zeros(50).double())
    vectors = torch.randn(6, 8).double()
    shifted = vectors - vectors.mean(1, keepdim=True) if centred else vectors
    order = ((shifted * norm.weight) @ readout.W_U).sort(dim=1, descending=True).indices
    found = ranked_tokens(readout, vectors, 5, token=17)
    assert torch.equal(found.highest, order[:, :5])
    assert torch.equal(found.lowest, order.flip(1)[:, :5])
    assert found.rank.tolist() == [row.index(17) + 1 for row in order.tolist()]


def test_more_tokens_than_there_are_is_all_of_them():
    norm = Norm(torch.ones(2), torch.ones(1), centred=False)
    readout = Readout(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), norm, torch.zeros(2), torch.zeros(3))
    assert ranked_tokens(readout, torch.tensor([[-1.0, 0.0]]), 9, token=0).highest.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_token_followed_is_never_above_itself(dtype):
    """Rounding of two products of the same numbers may differ."""
    torch.manual_seed(1)
    norm = Norm(torch.ones(640, dtype=dtype), torch.ones(1, dtype=dtype), centred=False)
    readout = Readout(torch.randn(640, 300, dtype=dtype), norm, torch.zeros(640, dtype=dtype), torch.zeros(300))
    vectors = readout.W_U.T[:40] * 3  # each promotes its own token most
    ranks = [int(ranked_tokens(readout, vectors[i : i + 1], 3, token=i).rank) for i in range(40)]
    assert ranks == [1] * 40


@pytest.mark.parametrize("centred", [True, False, None])
def test_embeddings_are_ranked_by_what_is_left_of_them_behind_the_norm(monkeypatch, centred):
    monkeypatch.setattr(module, "_CHUNK", 0)
    monkeypatch.setattr(module, "_NARROWEST", 7)
    torch.manual_seed(0)
    W_E, keys = torch.randn(50, 8).double() * torch.rand(50, 1).double(), torch.randn(3, 8).double()
    keys = keys - keys.mean(1, keepdim=True) if centred else keys
    normed = {
        True: torch.nn.functional.layer_norm(W_E, (8,), eps=0),
        False: torch.nn.functional.rms_norm(W_E, (8,), eps=0),
        None: W_E,
    }[centred]
    order = (normed @ keys.T).T.sort(dim=1, descending=True).indices
    most, least = ranked_embeddings(W_E, keys, 5, centred=centred)
    assert torch.equal(most, order[:, :5])
    assert torch.equal(least, order.flip(1)[:, :5])


def test_a_token_without_an_embedding_fits_nothing():
    W_E = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    most, least = ranked_embeddings(W_E, torch.tensor([[1.0, 0.0]]), 9, centred=False)
    assert (most.tolist(), least.tolist()) == ([[1, 0, 2]], [[2, 0, 1]])
