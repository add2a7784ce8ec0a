"""``study`` and ``reproduce`` as a user meets them."""

import json

from tl_neuron_attr import demo


def test_reproduce_names_another_model_and_refuses(run):
    code, out, err = run("reproduce", "gpt2-large", "--model", "demo")
    assert (code, out) == (1, "") and "model 'tl_neuron_attr demo' is not gpt2-large: it has 5 layers" in err


def test_a_study_of_a_file_names_what_it_leaves_out(run, tmp_path):
    lines = [json.dumps({"prompt": f.text, "target": f.answer, "type": f.kind}) for f in demo.facts("sport")[:2]]
    lines.append(json.dumps({"prompt": "3 + 5 =", "target": "basketball", "type": "sport"}))
    (tmp_path / "prompts.jsonl").write_text("\n".join([*lines, "{"]))
    args = ("study", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out"), "--query", "20")
    code, out, err = run(*args)
    assert code == 0 and "sport" in out and "2 of 3" in out
    assert "prompts.jsonl, line 4: not JSON" in err
    assert "2 of 3 prompts kept; 1 left out: the target is not among the 10 likeliest tokens\n" in err
    assert (tmp_path / "out" / "study.html").exists() and (tmp_path / "out" / "layers.parquet").exists()
    assert run(*args, "--value-mlp", "3")[0] == 1


def test_the_seed_reaches_the_study(run, tmp_path, monkeypatch):
    seen = []

    def study(*args, seed, **options):
        seen.append(seed)
        raise ValueError("enough")

    monkeypatch.setattr("tl_neuron_attr.evaluate.knowledge_study", study)
    assert run("study", "--per-type", "1", "--out", str(tmp_path), "--seed", "7")[0] == 1 and seen == [7]
