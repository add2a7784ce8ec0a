"""The study against loops over prompts, and what happens when it is stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests.evaluate.small_study import SIZES, same
from tl_neuron_attr.evaluate import KnowledgeStudy, StudyPrompt, facts, knowledge_study
from tl_neuron_attr.results import storage


def test_cross_outcomes_zero_the_best_heads_of_each_type(model, prompts, study):
    flat = [p for group in prompts.values() for p in group]
    best = study.heads[study.heads["type"] == "y"].groupby(["layer", "head"])["score"].mean().nlargest(1).index[0]
    i = int(study.cross["prompt"].iloc[0])
    with tna.ablate(model, [tuple(int(x) for x in best)]), torch.no_grad():
        expected = model(flat[i].prompt)[0, -1].log_softmax(-1)[model.to_single_token(flat[i].target)]
    row = study.cross[(study.cross["prompt"] == i) & (study.cross["zeroed"] == "y")]
    assert row["log_prob"].item() == pytest.approx(float(expected), abs=1e-5)


def test_targets_of_several_tokens_are_kept_and_counted(study):
    kept = study.kept().set_index("type")
    assert kept["asked"].to_dict() == {"x": 6, "y": 4}
    assert kept["several_tokens"].to_dict() == {"x": 1, "y": 0}
    several = study.selection[study.selection["target_tokens"] == 2]
    assert several["status"].tolist() == ["the target is not among the 10 likeliest tokens", "kept"]


def test_a_target_of_several_tokens_is_scored_by_the_chain_rule(model, prompts, study):
    """Its scores are sums over single tokens of one cache, its outcomes those of plain runs of prompt and answer."""
    i = int(study.selection.index[(study.selection["target_tokens"] == 2) & (study.selection["status"] == "kept")][0])
    asked = [p for group in prompts.values() for p in group][i]
    _, cache = model.run_with_cache(f"{asked.prompt} {asked.target}")
    tokens = model.to_tokens(f"{asked.prompt} {asked.target}")
    places = [(p, int(tokens[0, p + 1])) for p in (tokens.shape[1] - 3, tokens.shape[1] - 2)]
    layers = sum(tna.attribute_layers(cache, token, pos=p).mlp[0] for p, token in places)
    found = study.layers[(study.layers["prompt"] == i) & (study.layers["site"] == "mlp")]
    torch.testing.assert_close(torch.tensor(found["score"].to_numpy()), layers.double(), atol=1e-4, rtol=0)
    heads = sum(tna.attribute_heads(cache, token, pos=p)[0] for p, token in places).flatten().double()
    found = study.heads[study.heads["prompt"] == i]["score"].to_numpy()
    torch.testing.assert_close(torch.tensor(found), heads, atol=1e-4, rtol=0)

    best = study.heads[study.heads["type"] == "y"].groupby(["layer", "head"])["score"].mean().nlargest(1).index[0]
    for frame, zeroed, components in (
        (study.outcomes, "untouched", []),
        (study.cross, "y", [tuple(int(x) for x in best)]),
    ):
        with tna.ablate(model, components), torch.no_grad():
            log_p = model(tokens)[0].log_softmax(-1)
        row = frame[(frame["prompt"] == i) & (frame["zeroed"] == zeroed)].iloc[0]
        assert row["log_prob"] == pytest.approx(float(sum(log_p[p, token] for p, token in places)), abs=1e-5)
        assert row["rank"] == max(1 + int((log_p[p] > log_p[p, token]).sum()) for p, token in places)
    assert study.segments[study.segments["prompt"] == i]["log_prob"].iloc[-1] == pytest.approx(
        study.outcomes[(study.outcomes["prompt"] == i)]["log_prob"].iloc[0], abs=1e-4
    )


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9, 14, 19])
def test_a_study_that_was_stopped_goes_on_and_finds_the_same(model, prompts, study, tmp_path, monkeypatch, stop_after):
    """Stopped in the middle of a prompt, what was finished stays finished and is not computed again."""
    written = []
    save = storage.save_tensors

    def stopping(path, *args):
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(path)
        save(path, *args)

    monkeypatch.setattr(storage, "save_tensors", stopping)
    with pytest.raises(KeyboardInterrupt):
        knowledge_study(model, prompts, sizes=SIZES, every_neuron=True, out=tmp_path, progress=False)
    assert len(list(tmp_path.rglob("*.safetensors"))) == stop_after
    before = {path: Path(path).stat().st_mtime_ns for path in written}
    monkeypatch.setattr(storage, "save_tensors", save)
    again = knowledge_study(model, prompts, sizes=SIZES, every_neuron=True, out=tmp_path, progress=False)
    same(again, study)
    assert {path: Path(path).stat().st_mtime_ns for path in written} == before
    assert not list(tmp_path.rglob("*.partial"))


def test_the_bar_of_a_resumed_study_starts_where_it_stopped(model, prompts, tmp_path, capsys):
    knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    records = sorted((tmp_path / "prompts").iterdir())
    records[-1].unlink()
    knowledge_study(model, prompts, sizes=SIZES, out=tmp_path)
    shown = capsys.readouterr().err.split("zeroing heads")[0]
    assert f"{len(records) - 1}/{len(records)}" in shown, "its first report"
    assert f" 0/{len(records)}" not in shown


@pytest.mark.slow
def test_killed_outright_it_goes_on(tmp_path):
    """The real command, killed by SIGKILL a few times, ends with the results of an undisturbed run."""
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tl_neuron_attr", "study", "--per-type", "2", "--query", "30", "--out"]
    for _ in range(3):
        running = subprocess.Popen(
            [*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=alone
        )
        try:
            running.wait(timeout=12)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
    for name in ("killed", "whole"):
        done = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, env=alone)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name / "study.html").stat().st_size > 10_000
    same(KnowledgeStudy.load(tmp_path / "killed"), KnowledgeStudy.load(tmp_path / "whole"))


@pytest.mark.parametrize("kind", ["a\x00b", "a\nb", "\ud800", " ", ""])
def test_types_that_are_no_names_are_refused_before_work_starts(model, tmp_path, kind):
    with pytest.raises(ValueError, match=r"prompts_by_type: the type .* (control character|is empty)"):
        knowledge_study(model, {kind: [StudyPrompt("w1", "w2", kind)]}, out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_prompts_of_another_type_are_refused(model):
    with pytest.raises(ValueError, match=r"prompts_by_type\['x'\]\[0\] is of type 'y': group them by by_type"):
        knowledge_study(model, {"x": [StudyPrompt("w1", "w2", "y")]}, progress=False)


def test_half_a_character_never_stops_a_study(model, prompts, study, tmp_path):
    """Such a prompt is left out by name, and the others have the numbers they have without it."""
    broken = [StudyPrompt("w1 \ud83d", "w2", "x"), StudyPrompt("w1", "w\udc80", "x")]
    asked = dict(prompts) | {"z": [StudyPrompt(p.prompt, p.target, "z") for p in broken]}
    found = knowledge_study(model, asked, sizes=SIZES, out=tmp_path, progress=False)
    left = found.selection[found.selection["type"] == "z"]
    assert left["status"].str.contains("half a character").all()
    assert left["prompt"].tolist() == ["w1 \\ud83d", "w1"] and left["target"].tolist() == ["w2", "w\\udc80"]
    same(found, KnowledgeStudy.load(tmp_path))
    pd.testing.assert_frame_equal(found.layers, study.layers)


def test_on_the_bundled_model_chosen_neurons_matter_and_random_ones_do_not():
    lost = knowledge_study(tna.demo.load(), facts(["capital", "sport"], per_type=4), progress=False).decreases()
    lost = lost.groupby("zeroed")["prob"].mean()
    assert lost["value"] > 20 and abs(lost["random value"]) < 10


def test_a_study_with_no_prompt_left_is_refused(model):
    with pytest.raises(ValueError, match="no prompt is kept by the selection rule"):
        knowledge_study(model, {"x": [StudyPrompt("w1", "w2 w3", "x")]}, progress=False)


def test_a_study_is_kept_with_or_without_every_neurons_score(model, prompts, tmp_path):
    knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    found = KnowledgeStudy.load(tmp_path)
    assert found.neuron_sums()["neurons"].unique().tolist() == ["top100", "top200"]
    with pytest.raises(ValueError, match="holds a study of other every_neuron"):
        knowledge_study(model, prompts, sizes=SIZES, every_neuron=True, out=tmp_path, progress=False)


def test_a_single_type_has_nothing_to_be_compared_with(model, prompts):
    found = knowledge_study(model, {"x": prompts["x"]}, sizes=SIZES, progress=False)
    assert found.specificity.empty and found.specific_drops().empty
    assert "40 query neurons (the paper" in str(found)
