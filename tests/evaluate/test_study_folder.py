"""A study's folder: another study, and damaged files, are refused by name."""

import copy

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures
from tests.evaluate.small_study import SIZES
from tl_neuron_attr.evaluate import KnowledgeStudy, Sizes, knowledge_study
from tl_neuron_attr.evaluate.study_folder import StudyFolder
from tl_neuron_attr.results import storage


def test_a_record_is_made_once_and_read_back(tmp_path):
    (tmp_path / "prompts").mkdir()
    made = []

    def make(i):
        made.append(i)
        return {"scores": torch.arange(3.0) + i}

    folder = StudyFolder(tmp_path)
    for _ in range(2):
        for i in (7, 8):
            assert folder.record("prompts", i, make, ["scores"])["scores"].tolist() == [i, i + 1, i + 2]
    assert made == [7, 8]
    assert sorted(p.name for p in (tmp_path / "prompts").iterdir()) == ["000007.safetensors", "000008.safetensors"]


def test_without_a_folder_nothing_is_kept():
    made = []

    def make(i):
        made.append(i)
        return {"scores": torch.zeros(1)}

    for _ in range(2):
        StudyFolder(None).record("prompts", 3, make, ["scores"])
    assert made == [3, 3]


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
    storage.save_tensors(record, "study.prompts", {"heads": torch.ones(1)}, {})
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


def test_a_file_in_place_of_the_folder_is_refused_first(model, prompts, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match=r"out=.*file is a file: give a folder"):
        knowledge_study(model, prompts, sizes=SIZES, out=tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_text() == "kept"
