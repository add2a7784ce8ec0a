from dataclasses import replace

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import METHODS, faithfulness
from tl_neuron_attr.knowledge.baselines import baseline_scores
from tl_neuron_attr.model.intervene import edit
from tl_neuron_attr.model.tokens import prompt_ids

PROMPTS, TARGETS = ["w1 w2 w3", "w4 w5", "w6 w7 w8", "w9 w10"], ["w5", "w6", "w7", "w8"]


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


def test_outcomes_are_those_of_editing_the_weights_one_prompt_at_a_time(model):
    found = faithfulness(model, PROMPTS, TARGETS, scores=["coefficient", "rank"], k=3, progress=False).frame
    for i, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        w = model.to_single_token(target)
        _, cache = model.run_with_cache(prompt)
        for method in ("coefficient", "rank"):
            scores = baseline_scores(cache, w, score=method)[0]
            best = [("mlp", int(j) // 80, int(j) % 80) for j in scores.flatten().topk(3).indices]
            with edit(model, best), torch.no_grad():
                log_p = model(prompt)[0, -1].log_softmax(-1)
            row = found[(found.prompt == i) & (found.score == method)]
            assert row["log_prob"].item() == pytest.approx(float(log_p[w]), abs=1e-5)
            assert row["rank"].item() == int((log_p > log_p[w]).sum()) + 1


def test_of_an_answer_the_neurons_are_the_best_by_sums_over_its_tokens(model):
    """What is measured is the whole answer's log-probability and its worst token's rank, by plain runs."""
    methods = ["coefficient", "log_prob_increase"]
    found = faithfulness(model, PROMPTS[:1], ["w5 w9"], scores=methods, k=3, progress=False)
    tokens = model.to_tokens(f"{PROMPTS[0]} w5 w9")
    places = [(p, int(tokens[0, p + 1])) for p in (tokens.shape[1] - 3, tokens.shape[1] - 2)]
    _, cache = model.run_with_cache(tokens)
    for method in ("none", *methods):
        best = []
        if method != "none":
            scores = sum(baseline_scores(cache, w, score=method, pos=p)[0] for p, w in places)
            best = [("mlp", int(j) // 80, int(j) % 80) for j in scores.flatten().topk(3).indices]
        with edit(model, best), torch.no_grad():
            log_p = model(tokens)[0].log_softmax(-1)
        row = found.frame[found.frame.score == method].iloc[0]
        assert row["log_prob"] == pytest.approx(float(sum(log_p[p, w] for p, w in places)), abs=1e-5)
        assert row["rank"] == max(1 + int((log_p[p] > log_p[p, w]).sum()) for p, w in places)


def test_every_method_is_measured_at_every_count(model):
    found = faithfulness(model, PROMPTS, TARGETS, k=2, curve=(5,), progress=False)
    assert set(found.frame["score"]) == {*METHODS, "none"}
    assert len(found.frame) == len(PROMPTS) * (1 + 2 * len(METHODS))
    assert found.curve().shape[0] == 1 + 2 * len(METHODS)
    assert all(method in str(found) for method in METHODS) and "95 %" in str(found)
    assert set(found.summary(5)["score"]) == set(found.frame["score"])
    with pytest.raises(ValueError, match=r"k=9 was not measured; there are \[2, 5\]"):
        found.summary(9)


def test_the_same_seed_gives_the_same_frame_whatever_the_batches(model):
    options = {"scores": ["random", "log_prob_increase"], "k": 4, "progress": False}
    first, second = (faithfulness(model, PROMPTS, TARGETS, batch_size=b, **options).frame for b in (1, 3))
    pd.testing.assert_frame_equal(first, second, atol=1e-6)
    other = faithfulness(model, PROMPTS, TARGETS, seed=1, **options).frame
    assert not first[first.score == "random"]["log_prob"].equals(other[other.score == "random"]["log_prob"])


def test_on_facts_of_the_bundled_model_chosen_neurons_matter_more_than_random_ones():
    model, facts = tna.demo.load(), tna.demo.facts()[::60]
    found = faithfulness(
        model,
        [f.text for f in facts],
        [f.answer for f in facts],
        scores=["log_prob_increase", "random"],
        progress=False,
    ).summary()
    drop = found.set_index("score")["log_prob"]
    assert drop["log_prob_increase"] < drop["random"] - 0.05
    assert drop["random"] == pytest.approx(drop["none"], abs=0.05)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": ["w5"]}, "targets must hold one answer per prompt: 4 prompts, 1 target"),
        ({"targets": ["w5 zyx"] * 4}, r"no target can be read; targets\[0\]='w5 zyx' is not in the model's vocabulary"),
        (
            {"targets": ["w5 w6", *TARGETS[1:]], "own_scores": {"mine": print}},
            r"own_scores \['mine'\] take one token per prompt, and targets\[0\] is 2, 'w5 w6': leave",
        ),
        ({"k": 0}, "k must be between 1 and the 240 MLP neurons, got 0"),
        ({"curve": (241,)}, "k must be between 1 and the 240 MLP neurons, got 241"),
        ({"prompts": ["w1", "", "w2", "w3"]}, r"prompts\[1\] is empty"),
    ],
)
def test_bad_input_is_named(model, change, message):
    arguments = {"prompts": PROMPTS, "targets": TARGETS, "progress": False} | change
    with pytest.raises(ValueError, match=message):
        faithfulness(model, arguments.pop("prompts"), arguments.pop("targets"), **arguments)


def test_one_bad_target_is_reported_and_left_out(model):
    whole = faithfulness(model, PROMPTS, TARGETS, k=2, progress=False).frame
    unfit = " ".join(["w7"] * 62)
    for bad, said in (
        ("zyx", "targets[2]='zyx' is not in the model's vocabulary"),
        (10**6, "targets[2] must hold token ids between 0 and 96, got 1000000"),
        (unfit, "targets[2]: prompt and answer are 4 + 62 tokens, the model's context 64"),
    ):
        targets = [*TARGETS[:2], bad, TARGETS[3]]
        with pytest.warns(UserWarning, match="1 of 4 prompts left out; targets"):
            found = faithfulness(model, PROMPTS, targets, k=2, progress=False)
        assert found.problems[0].startswith(said) and "1 left out" in str(found)
        pd.testing.assert_frame_equal(found.frame, whole[whole.prompt != 2].reset_index(drop=True))


@pytest.mark.parametrize("pad", ["bos_token", "eos_token", None])
def test_each_prompt_has_its_own_numbers_whatever_the_pad_token_is(model, pad):
    """Prompts are never padded, so the pad token, even one that stands in every prompt, changes nothing."""
    before = model.tokenizer.pad_token
    try:
        model.tokenizer.pad_token = pad and getattr(model.tokenizer, pad)
        together = faithfulness(model, PROMPTS, TARGETS, scores=["log_prob_increase"], k=2, progress=False).frame
        for i, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
            alone = faithfulness(model, [prompt], [target], scores=["log_prob_increase"], k=2, progress=False).frame
            mine = together[together.prompt == i]["log_prob"].tolist()
            assert alone["log_prob"].tolist() == pytest.approx(mine, abs=1e-5)
            expected = (
                model(prompt_ids(model, prompt)[None])[0, -1]
                .log_softmax(-1)
                .detach()[model.tokenizer.convert_tokens_to_ids(target)]
            )
            assert mine[0] == pytest.approx(float(expected), abs=1e-5)
    finally:
        model.tokenizer.pad_token = before


def test_differences_are_paired_by_prompt(model):
    found = faithfulness(model, PROMPTS, TARGETS, scores=["coefficient", "rank", "norm"], k=3, progress=False)
    left = found.frame[found.frame["k"] == 3].pivot(index="prompt", columns="score", values="log_prob")
    rows = found.differences("coefficient").set_index("score")
    assert set(rows.index) == {"rank", "norm"}
    for name in rows.index:
        gaps = left["coefficient"] - left[name]
        assert rows.loc[name, "difference"] == pytest.approx(gaps.mean())
        assert gaps.min() <= rows.loc[name, "difference_low"] <= rows.loc[name, "difference_high"] <= gaps.max()
    one = replace(found, k=1, frame=found.frame[found.frame["prompt"] == 0].replace({"k": {3: 1}}))
    assert "1 MLP neuron zeroed in 1 prompt;" in str(one) and str(one).count("(no interval)") == 12
    with pytest.raises(ValueError, match="reference='log_prob_increase' was not measured at k=3"):
        found.differences()


def test_gradients_of_a_model_in_half_precision_are_refused_before_any_method_runs():
    def mine(*_):
        pytest.fail("a method ran")

    model, options = tna.demo.load(dtype=torch.bfloat16), {"own_scores": {"mine": mine}, "progress": False}
    for method in ("gradient", "integrated_gradients"):
        with pytest.raises(ValueError, match="bfloat16, whose gradients are too coarse"):
            faithfulness(model, ["3 + 5 ="], targets=["8"], scores=["random", method], k=1, **options)


def test_wordings_of_one_fact_count_once(model):
    with pytest.warns(UserWarning, match="1 of 5 prompts left out"):
        found = faithfulness(
            model, [*PROMPTS, "w1 w2"], [*TARGETS[:3], "no word", "w3"], scores=["coefficient"], k=2, progress=False
        )
    facts = ["a", "b", "a", "a", "b"]
    left = found.frame[found.frame["score"] == "coefficient"].set_index("prompt")
    mine = found.by_fact(facts)
    of_fact = mine.frame[mine.frame["score"] == "coefficient"].set_index("prompt")
    for fact, prompts in {"a": [0, 2], "b": [1, 4]}.items():
        for metric in ("rank", "reciprocal_rank", "prob", "log_prob"):
            assert of_fact.loc[fact, metric] == pytest.approx(left.loc[prompts, metric].sum() / 2)
    assert "in each of 2 facts" in str(mine) and mine.summary()["log_prob"].notna().all()
    for wrong in (facts[:4], [*facts, "c"]):
        with pytest.raises(ValueError, match=f"each prompt of the call, once: 5 prompts, got {len(wrong)}"):
            found.by_fact(wrong)
    with pytest.raises(ValueError, match="facts must name the fact of each prompt of the call, once: "):
        mine.by_fact(["a", "b", "a"])
