"""Tables of a study against its frames added up by hand, and its files."""

import pytest

from tests.evaluate.small_study import same
from tl_neuron_attr.evaluate import KnowledgeStudy


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
