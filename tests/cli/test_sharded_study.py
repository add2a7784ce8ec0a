"""``study --shards``, ``study merge`` and ``study repair`` as a user meets them."""

import io
import json

import pandas as pd
import pytest

SHARDED = ("--per-type", "1", "--shards", "3", "--query", "20", "--batch-size", "4")


def test_an_array_of_jobs_and_a_merge_are_the_whole_study(run, tmp_path):
    jobs, whole = tmp_path / "jobs", tmp_path / "whole"
    for stage in ("scores", "cross"):
        for shard in range(3):
            code, _, err = run("study", "--out", str(jobs), *SHARDED, "--shard", str(shard), "--stage", stage)
            assert code == 0
            if (stage, shard) != ("cross", 2):
                assert "shards left" in err
    assert run("study", "--out", str(whole), *SHARDED)[0] == 0
    code, out, _ = run("study", "merge", str(jobs))
    assert code == 0 and "1 of 1" in out
    for frame in (whole / "tables").iterdir():
        assert frame.read_bytes() == (jobs / "tables" / frame.name).read_bytes()
    assert "Where knowledge lives" in (jobs / "study.html").read_text()


def test_a_job_runs_the_first_stage_that_is_not_finished(run, tmp_path):
    out = ("--out", str(tmp_path), *SHARDED)
    assert run("study", *out, "--shard", "1")[0] == 0
    assert [p.name for p in (tmp_path / "scores").glob("part*")] == ["part-00001.parquet"]
    assert not (tmp_path / "cross").exists()


def test_a_prompt_file_that_changed_is_refused(run, tmp_path):
    file, out = tmp_path / "facts.jsonl", tmp_path / "study"
    line = '{"prompt": "Tim Duncan plays the sport of", "target": "basketball", "type": "sport"}\n'
    file.write_text(line)
    given = ("study", "--prompts", str(file), "--out", str(out), "--shards", "1", "--stage", "scores")
    assert run(*given)[0] == 0
    file.write_text(line.replace("Tim Duncan", "Roger Federer"))
    code, _, err = run(*given)
    assert code == 1 and "holds another study (items is" in err


def test_a_damaged_shard_is_repaired(run, tmp_path):
    out = ("--out", str(tmp_path), *SHARDED)
    assert run("study", *out)[0] == 0
    (tmp_path / "scores" / "part-00001.parquet").write_bytes(b"PAR1")
    code, _, err = run("study", "merge", str(tmp_path))
    assert code == 1 and "shard 1 of 'scores' can't be read" in err
    assert "removed scores/part-00001.parquet" in run("study", "repair", str(tmp_path))[2]
    assert run("study", *out)[0] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("merge",), "study takes no 'merge'"),
        (("mend", "here"), "study takes no 'mend here'"),
        ((), "--out is missing"),
        (("--out", "OUT", "--shard", "1"), "give --shards too"),
        (("--out", "OUT", "--shards", "1", "--shard", "1"), "shard must lie between 0 and 0, got 1"),
        (("--out", "OUT", "--shards", "0"), "--shards"),
        (("--out", "OUT", "--zeroed", "3"), "--zeroed is of --task faithfulness, not of knowledge"),
        (("--out", "OUT", "--task", "head-effects", "--value-mlp", "3"), "--value-mlp is of --task knowledge"),
        (("--out", "OUT", "--shards", "2", "--runner", "pool", "--shard", "0"), "leave out --shard"),
        (("--out", "nosuchstore://b/s", "--shards", "2"), "can't be opened"),
        (("merge", "OUT"), "holds no study"),
        (("--out", "OUT", "--batch-size", "4"), "--batch-size is of a study in shards: give --shards too"),
        (("--out", "OUT", "--task", "head-effects", "--seed", "1"), "--seed draws random neurons"),
        (("--out", "OUT", "--task", "icl-biases"), "--head is missing"),
        (("--out", "OUT", "--task", "icl-biases", "--head", "L9H0"), "layer of (9, 0) must lie between 0 and 4"),
        (("--out", "OUT", "--task", "icl-biases", "--head", "L3H4", "--per-type", "1"), "--per-type is of prompts"),
        (("--out", "OUT", "--shards", "1", "--draw", "4"), "--draw is of --task icl-biases, not of knowledge"),
        (("merge", "OUT", "--shards", "2"), "study merge reads what it needs from DIR: leave out --shards"),
    ],
)
def test_what_makes_no_study_is_refused(run, tmp_path, args, message):
    code, _, err = run("study", *(str(tmp_path) if a == "OUT" else a for a in args))
    assert code in (1, 2) and message in err


def test_prompts_come_from_parquet_and_from_stdin(run, tmp_path, monkeypatch):
    lines = [{"prompt": "Tim Duncan plays the sport of", "target": "basketball", "type": "sport"}]
    pd.DataFrame(lines).to_parquet(tmp_path / "facts.parquet")
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(line) + "\n" for line in lines)))
    for name, source in (("a", str(tmp_path / "facts.parquet")), ("b", "-")):
        code, out, _ = run("study", "--prompts", source, "--out", str(tmp_path / name), "--shards", "1")
        assert code == 0 and "1 of 1" in out
    assert (tmp_path / "a/items.parquet").read_bytes() == (tmp_path / "b/items.parquet").read_bytes()


def test_faithfulness_and_head_effects_are_studies_in_shards(run, tmp_path):
    given = ("--per-type", "1", "--batch-size", "4", "--out")
    code, out, _ = run("study", "--task", "faithfulness", "--zeroed", "3", *given, str(tmp_path / "a"))
    assert code == 0 and "methods" in out
    table = pd.read_parquet(tmp_path / "a" / "tables" / "methods.parquet")
    assert set(table["k"]) == {0, 3} and {"none", "log_prob_increase", "random"} < set(table["score"])
    assert run("study", "--task", "head-effects", *given, str(tmp_path / "b"), "--shards", "2")[0] == 0
    assert len(list((tmp_path / "b" / "effects").glob("part*"))) == 2


def test_the_biases_of_drawn_prompts_are_a_study_in_shards(run, tmp_path):
    given = ("--task", "icl-biases", "--head", "L3H4", "--head", "L3H7", "--draw", "30", "--shards", "2")
    code, out, _ = run("study", *given, "--out", str(tmp_path))
    assert code == 0 and "biases" in out
    table = pd.read_parquet(tmp_path / "tables" / "biases.parquet")
    assert {"majority", "recency"} == set(table["bias"])
