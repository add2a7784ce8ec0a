import pytest
import torch
import torch.nn.functional as F

from tl_neuron_attr.srnn import SRNNClassifier


@pytest.mark.parametrize(("n", "k", "millions"), [(8, 0, 5.76), (16, 1, 5.77), (8, 2, 5.79), (4, 3, 5.80)])
def test_parameters_are_as_many_as_the_paper_prints(n, k, millions):
    """Table 2, where a million is 2^20, with its five classes."""
    model = SRNNClassifier(30_000, 5, n=n, k=k)
    assert sum(p.numel() for p in model.parameters()) / 2**20 == pytest.approx(millions, abs=0.005)


def small(**options):
    torch.manual_seed(0)
    sizes = {"embedding_size": 6, "hidden_size": 4, "n": 2, "k": 2}
    return SRNNClassifier(20, 3, **sizes | options)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("words", [5, 8, 11])
def test_logits_are_the_head_of_the_last_state_of_the_padded_document(padding, words):
    model = small(T=8, padding=padding)
    ids = torch.randint(1, 21, (3, words))
    zeros = torch.zeros(3, max(0, 8 - words), dtype=torch.long)
    fitted = torch.cat([zeros, ids[:, -8:]], 1) if padding == "left" else torch.cat([ids[:, :8], zeros], 1)
    last = model.srnn(model.embedding.weight[fitted])[0]
    torch.testing.assert_close(model(ids), last @ model.head.weight.T + model.head.bias)


def test_padding_is_read_and_its_embedding_trained():
    """The paper's code masks nothing."""
    model = small(T=8)
    ids = torch.tensor([[3, 4, 5]])
    model(ids).sum().backward()
    assert model.embedding.weight.grad[0].abs().sum() > 0
    before = model(ids)
    with torch.no_grad():
        model.embedding.weight[0] += 1
    assert not torch.allclose(model(ids), before)


def test_with_slice_len_a_document_is_read_to_its_last_word():
    model = small(slice_len=3)
    document = torch.tensor([[3, 0, 5, 6]])
    batch = torch.cat([F.pad(document, (0, 9)), torch.randint(1, 21, (1, 13))])
    torch.testing.assert_close(model(batch)[:1], model(document))
    model(batch)[0].sum().backward()
    assert model.embedding.weight.grad[0].abs().sum() > 0  # the 0 between words is read


def test_it_starts_from_word_vectors():
    vectors = torch.randn(21, 6)
    model = small(T=8, vectors=vectors)
    assert torch.equal(model.embedding.weight, vectors) and model.embedding.weight.requires_grad


def test_it_learns_to_tell_two_words_apart():
    model = small(T=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    ids = torch.randint(3, 21, (64, 8))
    labels = torch.randint(0, 2, (64,))
    ids[torch.arange(64), torch.randint(0, 8, (64,))] = 1 + labels
    for _ in range(60):
        loss = F.cross_entropy(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(ids).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"T": 10}, ValueError, r"T must be a multiple of 4 \(n=\[2, 2\]\), got 10: the next is 12"),
        ({"T": 0}, ValueError, "T must be at least 1, got 0"),
        ({"embedding_size": 0}, ValueError, "embedding_size must be at least 1, got 0"),
        ({"padding": "none"}, ValueError, "padding must be 'left' or 'right', got 'none'"),
        ({"vectors": torch.zeros(20, 6)}, ValueError, r"vectors must be \[21, 6\], .* got \[20, 6\]"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_bad_arguments_are_named(options, error, words):
    with pytest.raises(error, match=words):
        small(**{"T": 8} | options)


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (torch.tensor([[1, 21]]), IndexError, "ids must be 0 for padding or a word, 1 to 20, got 21"),
        (torch.tensor([[-1, 2]]), IndexError, "1 to 20, got -1"),
        (torch.tensor([1, 2]), ValueError, r"ids must be \[batch, word\], .* got shape \[2\]"),
        (torch.zeros(2, 0, dtype=torch.long), ValueError, r"ids must be \[batch, word\], .* got shape \[2, 0\]"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_bad_documents_are_named(ids, error, words):
    with pytest.raises(error, match=words):
        small(T=8)(ids)


def test_a_document_of_padding_is_refused_where_padding_is_not_read():
    with pytest.raises(ValueError, match=r"ids must hold a word in every document, \[1\] are all padding"):
        small(slice_len=2)(torch.tensor([[1, 2], [0, 0]]))
    assert small(T=8)(torch.zeros(1, 8, dtype=torch.long)).isfinite().all()
