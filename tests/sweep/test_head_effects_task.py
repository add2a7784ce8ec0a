"""Head effects in shards against the effects of each prompt alone."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tl_neuron_attr import sweep


def test_effects_are_those_of_each_prompt_alone(model, prompts, plan, tmp_path):
    planned = plan(tmp_path, task=sweep.HeadEffectsTask(batch_size=2), shards=3)
    sweep.run_study(planned, model, progress=False)
    found = pd.concat(planned.frames("effects"), ignore_index=True)
    changes = []
    for i, prompt in enumerate(prompts):
        alone = tna.cna.head_effects(model, prompt.prompt, prompt.target, progress=False)
        change = (alone.log_prob - alone.base_log_prob).flatten()
        np.testing.assert_allclose(found["heads"][i], change, atol=1e-4)
        assert found["log_prob"][i] == pytest.approx(float(alone.base_log_prob), abs=1e-4)
        changes.append(change.numpy())
    table = sweep.merge_study(tmp_path)["heads"]
    of_type = np.stack([c for c, p in zip(changes, prompts, strict=True) if p.type == "sport"])
    np.testing.assert_allclose(table["score"][table["type"] == "sport"], of_type.mean(0), atol=1e-4)
    best = table.loc[table["score"].idxmin()]
    heads = model.cfg.n_heads
    pooled = np.stack(
        [
            np.stack([c for c, p in zip(changes, prompts, strict=True) if p.type == t]).mean(0)
            for t in dict.fromkeys(p.type for p in prompts)
        ]
    )
    assert (best["layer"], best["head"]) == divmod(int(pooled.min(0).argmin()), heads)


def test_a_prompt_that_can_t_be_run_says_why(model, tmp_path):
    prompts = [tna.evaluate.StudyPrompt("3 + 5 =", target, "sum") for target in ("8", "zyx")]
    items = sweep.prompt_items(prompts)
    planned = sweep.plan_study(model, items, task=sweep.HeadEffectsTask(), out=tmp_path)
    sweep.run_study(planned, model, progress=False)
    found = next(planned.frames("effects"))
    assert found["status"].tolist() == ["", "the target is empty or not in the model's vocabulary"]
    assert found["heads"].isna().tolist() == [False, True]


def test_an_answer_of_several_tokens_has_its_own_effects(model, tmp_path):
    prompts = [tna.evaluate.StudyPrompt("Tim Duncan plays the sport of", "basketball .", "sport")]
    planned = sweep.plan_study(model, sweep.prompt_items(prompts), task=sweep.HeadEffectsTask(), out=tmp_path)
    sweep.run_study(planned, model, progress=False)
    found = next(planned.frames("effects")).iloc[0]
    tokens = model.to_tokens("Tim Duncan plays the sport of basketball .")
    pos, target = torch.arange(tokens.shape[1] - 3, tokens.shape[1] - 1), tokens[0, -2:]
    with torch.no_grad():
        before = model(tokens)[0, pos].log_softmax(-1).gather(1, target[:, None]).sum()
        with tna.ablate(model, [(3, 6)]):
            after = model(tokens)[0, pos].log_softmax(-1).gather(1, target[:, None]).sum()
    assert found["log_prob"] == pytest.approx(float(before), abs=1e-4)
    change = found["heads"].reshape(found["layers"], -1)[3, 6]
    assert change == pytest.approx(float(after - before), abs=1e-4) and change < -0.01


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be between 1 and 2\*\*62, got 0"):
        sweep.HeadEffectsTask(batch_size=0)
