"""The chains of an answer against chains of its tokens, and their sums against the answer's own log-probability."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import cna, demo

PROMPT, ANSWER = "Tim Duncan plays the sport of", " basketball ."


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def chains(model):
    return cna.logic_chains(model, PROMPT, ANSWER, k=60, shallow=5)


def test_each_is_the_chain_behind_the_text_before_its_token(model, chains):
    second = cna.logic_chain(model, f"{PROMPT} basketball", ".", k=60, shallow=5)
    assert len(chains) == 2 and chains[1] == second and chains[0].tokens == second.tokens[:-1]
    assert [chain.answer for chain in chains] == ["basketball", "."] and chains.answer == ANSWER


def test_log_probabilities_and_what_heads_cost_add_up_to_the_whole_answers(model, chains):
    """The whole answer's come from one run of all of it, in which heads are zeroed."""
    whole = tna.head_effects(model, PROMPT, tna.Answer.of(model, ANSWER), progress=False)
    assert chains.log_prob == pytest.approx(float(whole.base_log_prob), abs=1e-5)
    drops = torch.stack([chain.feature_predicting.effects.drop for chain in chains]).sum(0)
    torch.testing.assert_close(drops, whole.drop, atol=1e-4, rtol=0)


def test_the_table_has_a_row_per_token(chains):
    rows = chains.table().rows
    assert [row[0] for row in rows] == ["basketball", "."]
    assert [row[6] for row in rows] == [chain.feature_predicting.neurons.labels[0] for chain in chains]
    assert ANSWER.strip() in str(chains) and "<table>" in chains._repr_html_()


def test_an_answer_of_one_token_is_one_chain():
    model, prompt = architectures.build("llama"), architectures.prompts(1)[0]
    given = {"head": (1, 2), "k": 8, "shallow": 3}
    one = cna.logic_chain(model, prompt, tna.Answer.of(model, [5]), **given)
    assert one == cna.logic_chain(model, prompt, 5, **given) == cna.logic_chains(model, prompt, "w5", **given)[0]


def test_one_chain_refuses_what_is_not_one_token(model):
    with pytest.raises(ValueError, match=r"(?s)target='basketball \.' is 2 tokens.*cna\.logic_chains\(model, prompt"):
        cna.logic_chain(model, PROMPT, tna.Answer.of(model, ANSWER))
    with pytest.raises(ValueError, match="is 2 tokens, and one chain follows one of them"):
        cna.logic_chain(model, PROMPT, ANSWER)
    with pytest.raises(ValueError, match="target is a set of right answers, and one chain follows one token"):
        cna.logic_chain(model, PROMPT, tna.any_of(" basketball", " tennis"))


def test_bad_input_is_named(model):
    with pytest.raises(ValueError, match="answer is empty"):
        cna.logic_chains(model, PROMPT, "")
    with pytest.raises(ValueError, match="tokens hold 2 prompts"):
        cna.logic_chains(architectures.build("gpt2"), architectures.prompts(2), "w5")
    with pytest.raises(ValueError, match=r"prompt and answer are 7 \+ \d+ tokens, the model's context"):
        cna.logic_chains(model, PROMPT, tna.Answer.of(model, [5] * model.cfg.n_ctx))
