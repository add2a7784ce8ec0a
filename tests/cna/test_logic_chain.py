"""The chain against its stages run one by one; that the deep neurons matter is tested by zeroing them."""

from importlib import import_module

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import cna, demo, vis
from tl_neuron_attr.cna.carried import carried_drops

PROMPT = "6 * 7 ="


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def chain(model):
    return cna.logic_chain(model, PROMPT)


def test_it_is_the_four_stages_one_after_the_other(model, chain):
    _, cache = model.run_with_cache(PROMPT)
    predicting = cna.feature_predicting(model, PROMPT, "42", head=chain.head, k=30)
    assert chain.answer == "42"
    assert chain.feature_predicting.neurons.labels == predicting.neurons.labels
    enhancing = cna.prediction_enhancing(cache, predicting.neurons)
    assert chain.prediction_enhancing.root == enhancing.root
    root = enhancing.root_neuron
    transferring = cna.feature_transferring(cache, root, predicting.head)
    torch.testing.assert_close(chain.feature_transferring.hops[-1].total, transferring.hops[-1].total)
    assert chain.feature_enhancing.names == cna.feature_enhancing(cache, transferring).names


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_that_of_the_heads(model, monkeypatch, progress):
    shown = []

    def effects(*args, progress, **options):
        shown.append(progress)
        return cna.head_effects(*args, progress=False, **options)

    monkeypatch.setattr(import_module("tl_neuron_attr.cna.logic_chain"), "head_effects", effects)
    cna.logic_chain(model, PROMPT, progress=progress)
    assert shown == [progress]


def test_zeroing_its_deep_neurons_costs_more_than_random_ones(model, chain):
    neurons = chain.feature_predicting.neurons
    with torch.no_grad():
        before = float(model(PROMPT)[0, -1].log_softmax(-1)[model.to_single_token("42")])
        with tna.ablate(model, neurons):
            after = float(model(PROMPT)[0, -1].log_softmax(-1)[model.to_single_token("42")])
        layers = neurons.layer.tolist()
        at_random = torch.Generator().manual_seed(0)
        drawn = {("mlp", la, int(torch.randint(512, (1,), generator=at_random))) for la in layers}
        with tna.ablate(model, sorted(drawn)):
            control = float(model(PROMPT)[0, -1].log_softmax(-1)[model.to_single_token("42")])
    assert before - after > 5 * abs(before - control)


def test_the_table_goes_from_the_tokens_to_the_answer(chain):
    table = chain.table()
    stages = list(dict.fromkeys(row[0] for row in table.rows))
    assert stages == ["feature enhancing", "feature transferring", "feature predicting", "prediction enhancing"]
    assert all(row[0] != "feature enhancing" or "@" in row[2] for row in table.rows)
    assert "42" in str(chain) and "<table>" in chain._repr_html_()


@pytest.mark.parametrize("name", architectures.DENSE)
def test_every_architecture(name):
    model = architectures.build(name)
    chain = cna.logic_chain(model, architectures.prompts(1)[0], 5, head=(1, 2), k=12, shallow=4)
    assert chain.head == (1, 2) and len(chain.feature_enhancing.neurons) == 4 and chain.answer == "w5"
    assert bool((chain.feature_predicting.neurons.score > 0).all())
    assert int(chain.prediction_enhancing.root_neuron.layer[0]) >= 1
    assert "feature transferring" in str(chain)


def test_the_prediction_is_followed_by_default():
    model = architectures.build("llama")
    tokens = architectures.prompts(1)
    with torch.no_grad():
        best = int(model(tokens)[0, -1].argmax())
    assert cna.logic_chain(model, tokens, head=(1, 2)).answer == f"w{best}"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="tokens hold 2 prompts, and one is explained at a time"):
        cna.logic_chain(architectures.build("gpt2"), architectures.prompts(2), 5)
    with pytest.raises(ValueError, match="zeroing L2H1 lowers no MLP neuron's increase: it feeds none"):
        cna.logic_chain(architectures.build("gptj"), architectures.prompts(1), 5, head=(2, 1))
    with pytest.raises(IndexError, match="must lie between 0 and 2, got 9"):
        cna.logic_chain(architectures.build("gpt2"), architectures.prompts(1), 5, head=(9, 1))


def test_the_head_is_the_one_that_carried_most_of_those_that_cost_most(model, chain):
    ids = model.to_tokens(PROMPT)
    costliest = cna.head_effects(model, ids, "42", progress=False).ranked()[:20]
    drops = carried_drops(model, ids, "42", costliest)
    assert chain.head == costliest[int(drops.argmax())] and chain.head != costliest[0]


def test_it_says_what_share_it_explains_and_warns_where_that_is_little(model, chain):
    assert chain.explained > 0.25 and f"30 deep neurons alone cost {chain.explained:.0%} of that" in str(chain)
    with pytest.warns(
        UserWarning, match=r"the chain's 1 neurons explain \d+% of what zeroing L\dH\d costs: it is no full"
    ):
        few = cna.logic_chain(model, PROMPT, k=1)
    assert few.explained < chain.explained
    page = str(vis.logic_chain(few).body)
    assert "These neurons explain little" in page and "explain little" not in str(vis.logic_chain(chain).body)


def test_layers_and_contrast_reach_the_deep_neurons(model):
    found = cna.logic_chain(model, PROMPT, "42", layers=[4], contrast="7", k=10)
    deep = cna.feature_predicting(model, PROMPT, "42", head=found.head, layers=[4], contrast="7", k=10)
    assert found.feature_predicting.neurons.labels == deep.neurons.labels[: len(found.feature_predicting.neurons)]
    assert set(found.feature_predicting.neurons.layer.tolist()) == {4}


def test_no_chain_is_said_to_lead_to_what_the_model_hardly_predicts(model, chain):
    unlikely = cna.logic_chain(model, PROMPT, " basketball", head=(3, 6), k=5)
    for shown in (str(unlikely), str(vis.logic_chain(unlikely).body)):
        assert "he model hardly predicts this target" in shown
    assert "hardly" not in str(chain) and "hardly" not in str(vis.logic_chain(chain).body)
