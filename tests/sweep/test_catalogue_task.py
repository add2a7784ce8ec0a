"""A corpus in shards against looking at all of it at once."""

import numpy as np
import pytest
import torch

from tl_neuron_attr import sweep

TEXTS = [
    "Tim Duncan plays the sport of basketball",
    "the capital of France is Paris",
    "3 + 5 = 8",
    "the capital of Spain is Madrid and the capital of France is Paris",
    "Tim Duncan plays the sport of tennis",
]


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    task = sweep.CatalogueTask(top=3, batch_size=2, window=2)
    plan = sweep.plan_study(model, sweep.corpus_items(TEXTS, chunk=8), task=task, out=folder, shards=3)
    sweep.run_study(plan, model, progress=False)
    return plan, sweep.merge_study(folder)


@pytest.fixture(scope="module")
def activations(model, found):
    """Every chunk's activations without its first position: ``Float["place d_mlp"]`` of each layer, and the places."""
    plan, _ = found
    layers, places = None, []
    for item, ids in enumerate(plan.items["ids"]):
        _, cache = model.run_with_cache(torch.tensor(ids.tolist())[None])
        posts = [cache[f"blocks.{layer}.mlp.hook_post"][0, 1:] for layer in range(model.cfg.n_layers)]
        layers = posts if layers is None else [torch.cat(pair) for pair in zip(layers, posts, strict=True)]
        places += [(item, pos) for pos in range(1, len(ids))]
    return layers, places


def test_the_strongest_activations_are_those_of_the_whole_corpus(found, activations):
    _, tables = found
    for layer, posts in enumerate(activations[0]):
        frame = tables[f"layer_{layer:02d}"]
        for sign, name in ((1, "positive"), (-1, "negative")):
            for neuron, best in enumerate((sign * posts).topk(3, dim=0).values.T):
                expected = [sign * value for value in best.tolist() if value > 0]
                np.testing.assert_allclose(frame[f"{name}_activation"][neuron], expected, atol=1e-5)


def test_a_context_shows_the_token_at_which_the_neuron_was_strongest(found, activations):
    plan, tables = found
    layers, places = activations
    frame = tables["layer_02"]
    alive = [neuron for neuron in range(len(frame)) if layers[2][:, neuron].max() > 0]
    assert len(alive) > 20
    for neuron in alive:
        item, pos = places[int(layers[2][:, neuron].argmax())]
        tokens = plan.items["tokens"][item]
        expected = "".join(tokens[max(0, pos - 2) : pos]) + f"[[{tokens[pos]}]]" + "".join(tokens[pos + 1 : pos + 3])
        assert frame["positive_context"][neuron][0] == expected


def test_quantiles_are_within_a_bin_of_numpy_s(found, activations):
    _, tables = found
    posts = activations[0][1].numpy()
    for share in (0.1, 0.5, 0.9):
        exact = np.quantile(posts, share, axis=0, method="inverted_cdf")
        error = np.abs(tables["layer_01"][f"q{100 * share:g}"].to_numpy() - exact)
        assert (error <= 0.16 * np.abs(exact) + 2e-4).all()


def test_every_token_is_in_one_chunk(model, found):
    plan, _ = found
    for document, group in plan.items.groupby("document"):
        text = [token for tokens in group["tokens"] for token in list(tokens)[1:]]
        assert "".join(text).replace(" ", "") == TEXTS[document].replace(" ", "")
        assert max(map(len, group["ids"])) <= 8


@pytest.mark.parametrize(
    ("texts", "chunk", "message"),
    [
        ([], 8, "no text of two tokens"),
        ([""], 8, "no text of two tokens"),
        (["half \ud83d"], 8, r"texts\[0\]=.*lone surrogate"),
        (["3 + 5"], 1, "chunk must be between 2"),
        (["3 + 5"], 100_000, "chunk must be between 2"),
    ],
)
def test_what_is_no_corpus_is_refused(model, texts, chunk, message):
    with pytest.raises(ValueError, match=message):
        sweep.corpus_items(texts, chunk=chunk).read(model)


@pytest.mark.parametrize("name", ["top", "batch_size", "window"])
def test_sizes_are_at_least_one(name):
    with pytest.raises(ValueError, match=rf"{name} must be (at least 1|between 1 and 2\*\*62), got 0"):
        sweep.CatalogueTask(**{name: 0})
