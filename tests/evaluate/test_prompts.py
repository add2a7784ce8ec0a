import json
import sys

import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.evaluate import StudyPrompt, by_type, facts, read_prompts

GOOD = {"prompt": "w1 w2", "target": "w3", "type": "a"}


@pytest.mark.parametrize(
    "line, problem",
    [
        ("{", "not JSON"),
        ("[1]", "not an object but list"),
        (json.dumps({"prompt": "w1", "type": "a"}), "field 'target' is missing"),
        (json.dumps(GOOD | {"target": 5}), "field 'target' must be a text that is not empty, got 5"),
        (json.dumps(GOOD | {"type": ""}), "field 'type' must be a text that is not empty, got ''"),
        ("\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path, line, problem):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), "", line, json.dumps(GOOD | {"type": "b"})]), encoding="utf-8")
    found = read_prompts(path)
    assert [p.type for p in found.prompts] == ["a", "b"]
    assert len(found.problems) == 1 and found.problems[0].startswith(f"{path}, line 3: {problem}")


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no prompt file"):
        read_prompts(tmp_path / "absent")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="holds no prompt and is empty"):
        read_prompts(tmp_path / "empty")
    (tmp_path / "bad").write_text("{")
    with pytest.raises(ValueError, match=r"holds no prompt; .*line 1: not JSON"):
        read_prompts(tmp_path / "bad")


def test_a_dataset_is_read_by_name_and_as_an_object(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": "3 + 5 =", "target": "8", "type": "sum"}, {"prompt": "3 - 1 =", "target": "", "type": "sum"}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = read_prompts(f"hf://{tmp_path / 'data'}?split=test")
    given = read_prompts(datasets.Dataset.from_list(rows))
    assert named.prompts == given.prompts == (StudyPrompt("3 + 5 =", "8", "sum"),)
    assert "line 2: field 'target'" in named.problems[0] and "the rows given, line 2" in given.problems[0]
    with pytest.raises(ValueError, match=r"hf://.*can't be loaded"):
        read_prompts(f"hf://{tmp_path / 'data'}?split=other")


@pytest.mark.parametrize("url", ["hf://", "hf://name?split=", "hf://name?part=test"])
def test_a_name_of_no_dataset_is_refused(url):
    with pytest.raises(ValueError, match="names no dataset"):
        read_prompts(url)


def test_a_dataset_wants_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="needs the package datasets: pip install datasets"):
        read_prompts("hf://name")


def test_prompts_are_grouped_in_order():
    groups = by_type([StudyPrompt("1", "x", "b"), StudyPrompt("2", "x", "a"), StudyPrompt("3", "x", "b")])
    assert {t: [p.prompt for p in group] for t, group in groups.items()} == {"b": ["1", "3"], "a": ["2"]}


def test_bundled_facts_are_held_out_and_mixed():
    found = facts(per_type=30)
    assert list(found) == list(demo.KINDS)
    trained = {f.text for f in demo.facts()}
    assert not [p for group in found.values() for p in group if p.prompt in trained]
    assert len({p.prompt.split()[0] for p in found["sport"]}) > 5
