"""The study against loops over prompts, and what happens when it is stopped."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr.evaluate import KnowledgeStudy, Sizes, StudyPrompt, by_type, facts, knowledge_study
from tl_neuron_attr.model.components import component_lists
from tl_neuron_attr.results import storage

SIZES = Sizes(value_attn=12, value_mlp=6, query=40, shared=10, heads=0.1)
FRAMES = ("layers", "heads", "sums", "query_layers", "outcomes", "cross", "neurons", "segments")


@pytest.fixture(scope="module")
def model():
    return architectures.build("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts(model):
    """Prompts whose targets the model predicts, of two types, and one that is left out."""
    with torch.no_grad():
        said = [f"w{i} w{i + 3} w{i + 7}" for i in range(0, 40, 5)]
        best = {t: int(model(t)[0, -1, :93].argmax()) for t in said}
    found = [StudyPrompt(t, f"w{best[t]}", "xy"[i % 2]) for i, t in enumerate(said)]
    return by_type([*found, StudyPrompt("w1 w2", "w3 w4", "x")])


@pytest.fixture(scope="module")
def study(model, prompts):
    return knowledge_study(model, prompts, sizes=SIZES, progress=False)


def same(first, second):
    for name in ("selection", *FRAMES):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))


def test_scores_are_those_of_the_functions(model, prompts, study):
    flat = [p for group in prompts.values() for p in group]
    for i in study.layers["prompt"].unique()[:3]:
        _, cache = model.run_with_cache(flat[i].prompt)
        layers, heads = tna.attribute_layers(cache, flat[i].target), tna.attribute_heads(cache, flat[i].target)
        mine = study.layers[(study.layers["prompt"] == i) & (study.layers["site"] == "attn")]
        assert mine["score"].tolist() == pytest.approx(layers.attn[0].tolist())
        assert study.heads[study.heads["prompt"] == i]["score"].tolist() == pytest.approx(heads.flatten().tolist())
        sums = study.sums[(study.sums["prompt"] == i) & (study.sums["site"] == "mlp")].set_index("neurons")["score"]
        scores = tna.attribute_mlp_neurons(cache, flat[i].target).flatten()
        assert sums["all"] == pytest.approx(float(scores.sum()), abs=1e-5)
        assert sums["positive"] == pytest.approx(float(scores[scores > 0].sum()), abs=1e-5)
        assert sums["top100"] == pytest.approx(float(scores.sort().values[-100:].sum()), abs=1e-5)


def test_outcomes_are_those_of_ablating_by_hand(model, prompts, study):
    flat = [p for group in prompts.values() for p in group]
    i = int(study.outcomes["prompt"].iloc[0])
    w = model.to_single_token(flat[i].target)
    _, cache = model.run_with_cache(flat[i].prompt)
    attn, mlp = (tna.value_neurons(cache, w, n, sites=(s,))[0] for s, n in (("attn", 12), ("mlp", 6)))
    query = tna.query_neurons(cache, attn.unsqueeze(), 40, sites=("mlp",))[0]
    for zeroed, neurons in (("value", (attn, mlp)), ("query", (query,))):
        named = [component_lists(model, n)[0] for n in neurons]
        with tna.ablate(model, [part for parts in named for part in parts]), torch.no_grad():
            expected = model(flat[i].prompt)[0, -1].log_softmax(-1)[w]
        row = study.outcomes[(study.outcomes["prompt"] == i) & (study.outcomes["zeroed"] == zeroed)]
        assert row["log_prob"].item() == pytest.approx(float(expected), abs=1e-5)


def test_cross_outcomes_zero_the_best_heads_of_each_type(model, prompts, study):
    flat = [p for group in prompts.values() for p in group]
    best = study.heads[study.heads["type"] == "y"].groupby(["layer", "head"])["score"].mean().nlargest(1).index[0]
    i = int(study.cross["prompt"].iloc[0])
    with tna.ablate(model, [tuple(int(x) for x in best)]), torch.no_grad():
        expected = model(flat[i].prompt)[0, -1].log_softmax(-1)[model.to_single_token(flat[i].target)]
    row = study.cross[(study.cross["prompt"] == i) & (study.cross["zeroed"] == "y")]
    assert row["log_prob"].item() == pytest.approx(float(expected), abs=1e-5)


def test_segments_run_from_the_embedding_to_the_prediction(study):
    for i, group in study.segments.groupby("prompt"):
        end = study.outcomes[(study.outcomes["prompt"] == i) & (study.outcomes["zeroed"] == "untouched")]
        assert group["log_prob"].iloc[-1] == pytest.approx(end["log_prob"].item(), abs=1e-4)
        assert len(group) == 61


def test_multi_token_targets_are_skipped_counted_and_listed(study):
    skipped = study.selection[study.selection["status"] == "the target is not one token"]
    assert skipped["prompt"].tolist() == ["w1 w2"]
    assert study.kept()["asked"].tolist() == [5, 4] and study.kept()["kept"].tolist()[0] <= 4


def test_tables_are_the_frames_added_up(study):
    sums = study.layer_sums().set_index(["type", "site"])["score"]
    mine = study.layers[(study.layers["type"] == "x") & (study.layers["site"] == "mlp")]
    assert sums["x", "mlp"] == pytest.approx(mine.groupby("prompt")["score"].sum().mean())
    lost = study.decreases().set_index(["type", "zeroed"])
    of_type = study.outcomes[study.outcomes["type"] == "y"].groupby("zeroed")["prob"].mean()
    assert lost.loc[("y", "value"), "prob"] == pytest.approx(100 * (1 - of_type["value"] / of_type["untouched"]))
    query = study.neurons[study.neurons["kind"] == "query"]
    depth = study.depth()
    assert (depth["queryvalue"] + depth["queryonly"]).sum() == pytest.approx(len(query) / query["prompt"].nunique())
    shared = study.shared_between("value")
    assert (shared.to_numpy() == shared.to_numpy().T).all()
    assert "value zeroed, prob -%" in str(study)


def test_shared_neurons_are_among_the_best_of_more_than_half(study):
    for row in study.shared().to_dict("records"):
        mine = study.neurons[(study.neurons["type"] == row["type"]) & (study.neurons["kind"] == row["kind"])]
        counts = mine[mine["place"] < 10].groupby(["layer", "index"])["prompt"].nunique()
        assert row["neurons"] == int((counts > mine["prompt"].nunique() / 2).sum())


def test_it_is_saved_and_loaded_whole(study, tmp_path):
    study.save(tmp_path)
    same(study, KnowledgeStudy.load(tmp_path))
    (tmp_path / "cross.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"cross.parquet is missing"):
        KnowledgeStudy.load(tmp_path)


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9, 14])
def test_a_study_that_was_stopped_goes_on_and_finds_the_same(model, prompts, study, tmp_path, monkeypatch, stop_after):
    """Stopped in the middle of a prompt, what was finished stays finished and is not computed again."""
    written = []
    save = storage.save

    def stopping(path, *args):
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(path)
        save(path, *args)

    monkeypatch.setattr(storage, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    assert len(list(tmp_path.rglob("*.safetensors"))) == stop_after
    before = {path: Path(path).stat().st_mtime_ns for path in written}
    monkeypatch.setattr(storage, "save", save)
    again = knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    same(again, study)
    assert {path: Path(path).stat().st_mtime_ns for path in written} == before
    assert not list(tmp_path.rglob("*.partial"))


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


def test_another_study_in_the_folder_is_refused(model, prompts, tmp_path):
    knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    for change, name in (
        ({"sizes": Sizes(1, 1, 1, 1)}, "sizes"),
        ({"seed": 7}, "seed"),
        ({"prompts_by_type": {"x": prompts["x"][:1]}}, "prompts"),
        ({"model": architectures.build("llama", dtype=torch.float32, seed=4)}, "model"),
    ):
        arguments = {"model": model, "prompts_by_type": prompts, "sizes": SIZES, "seed": 0} | change
        with pytest.raises(ValueError, match=f"holds a study of other {name}: choose another folder"):
            knowledge_study(**arguments, out=tmp_path, progress=False)


def test_a_model_changed_anywhere_is_another_study(model, prompts, tmp_path):
    """Every weight counts, also those that no column of the unembedding shows; and so does the tokenizer."""
    model = copy.deepcopy(model)
    knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    with torch.no_grad():
        model.blocks[1].mlp.W_out.mul_(1.15)
    with pytest.raises(ValueError, match="holds a study of other model"):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)


def test_active_hooks_and_a_study_that_is_kept_are_refused(model, prompts, tmp_path):
    with tna.ablate(model, [(1, 0)]), pytest.raises(ValueError, match="the model has active hooks at"):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "study.json holds list, no study: choose another folder"),
        ("{", "study.json is damaged"),
        ("[" * 10**5, "study.json is damaged"),
        ("{}", "holds a study of other model and tokenizer and"),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(model, prompts, tmp_path, text, message):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)


def test_damaged_records_and_frames_are_named(model, prompts, study, tmp_path):
    knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    record = next((tmp_path / "prompts").iterdir())
    whole = record.read_bytes()
    record.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f"{record.name} is not a result file"):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    storage.save(record, "study.prompts", {"heads": torch.ones(1)}, {})
    with pytest.raises(ValueError, match=rf"{record.name} holds \['heads'\], expected .*: remove it"):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    record.write_bytes(whole)
    (tmp_path / "selection.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"selection.parquet is damaged"):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path, progress=False)
    study.layers.drop(columns="site").to_parquet(tmp_path / "layers.parquet")
    study.selection.to_parquet(tmp_path / "selection.parquet")
    with pytest.raises(ValueError, match=r"layers.parquet lacks the column 'site'"):
        KnowledgeStudy.load(tmp_path)


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


def test_bad_sizes_and_no_prompt_left_are_named(model):
    with pytest.raises(ValueError, match=r"sizes.query must be above 0, got 0"):
        Sizes(query=0)
    with pytest.raises(ValueError, match="no prompt is kept by the selection rule"):
        knowledge_study(model, {"x": [StudyPrompt("w1", "w2 w3", "x")]}, progress=False)


def test_sizes_fit_the_model(model):
    assert Sizes.fitting(model) == Sizes(20, 10, 100, 30, 0.05)
    assert Sizes(1000, 1000, 1000).capped(model, 3) == Sizes(3 * 4 * 8 * 3, 240, 160, 240, 0.01)


def test_on_the_bundled_model_chosen_neurons_matter_and_random_ones_do_not():
    lost = knowledge_study(tna.demo.load(), facts(["capital", "sport"], per_type=4), progress=False).decreases()
    lost = lost.groupby("zeroed")["prob"].mean()
    assert lost["value"] > 20 and abs(lost["random value"]) < 10
