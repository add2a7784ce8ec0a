"""Files of text as documents: what can't be used is named; a catalogue is read back for its model only."""

import copy

import pandas as pd
import pytest
import torch

from tl_neuron_attr import sweep


def test_documents_come_from_rows_and_from_whole_files(tmp_path):
    (tmp_path / "page.md").write_text("# A page\n\nof two lines\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": 2}\n{"text": "half \\ud83d"}\n{\n{"other": "x"}\n')
    pd.DataFrame({"text": ["two", "three"]}).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text('text,other\n"four, five",x\n')
    names = ("page.md", "rows.jsonl", "rows.parquet", "rows.csv")
    found = sweep.read_corpus([tmp_path / name for name in names])
    assert found.texts == ("# A page\n\nof two lines\n", "one", "two", "three", "four, five")
    wrong = ("must be a text, got int", "half a character", "not JSON", "field 'text' is missing")
    assert len(found.problems) == 4 and all(w in p for w, p in zip(wrong, found.problems, strict=True))
    assert "rows.jsonl, line 2" in found.problems[0]
    assert sweep.read_corpus([tmp_path / "rows.csv"], field="other").texts == ("x",)


@pytest.mark.parametrize("content", ["", '{"other": "x"}'])
def test_files_without_text_are_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ValueError, match="paths holds no text"):
        sweep.read_corpus([tmp_path / "rows.jsonl"])
    with pytest.raises(FileNotFoundError, match="no file at"):
        sweep.read_corpus([tmp_path / "nothing.txt"])


def test_a_catalogue_is_read_for_its_own_model_once_merged(model, plan, tmp_path):
    items = sweep.corpus_items(["the capital of France is Paris", "3 + 5 = 8"], chunk=8)
    planned = sweep.plan_study(model, items, task=sweep.CatalogueTask(top=2), out=tmp_path / "corpus")
    sweep.run_study(planned, model, progress=False)
    with pytest.raises(FileNotFoundError, match=r"lacks tables/layer_00\.parquet: run tl-neuron-attr study merge"):
        sweep.read_catalogue(tmp_path / "corpus", model)
    merged = sweep.merge_study(tmp_path / "corpus")
    read = sweep.read_catalogue(tmp_path / "corpus", model)
    assert list(read) == list(merged)
    assert read["layer_01"]["positive_context"][3].tolist() == merged["layer_01"]["positive_context"][3]
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    with pytest.raises(ValueError, match="a study of another model"):
        sweep.read_catalogue(tmp_path / "corpus", other)
    plan(tmp_path / "facts")
    with pytest.raises(ValueError, match="holds a study of 'knowledge', no catalogue"):
        sweep.read_catalogue(tmp_path / "facts", model)
