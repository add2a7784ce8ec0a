"""``catalogue`` and ``neurons --catalogue`` as a user meets them."""

import json

from tl_neuron_attr import demo


def test_a_catalogue_of_files_shows_contexts_beside_neurons(run, tmp_path):
    lines = [json.dumps({"text": f"{fact.text} {fact.answer}"}) for fact in demo.facts("sport")[:6]]
    (tmp_path / "facts.jsonl").write_text("\n".join([*lines, "{"]))
    (tmp_path / "sums.txt").write_text("3 + 5 = 8")
    out = str(tmp_path / "catalogue")
    files = (str(tmp_path / "facts.jsonl"), str(tmp_path / "sums.txt"))
    code, shown, err = run("catalogue", "--corpus", *files, "--out", out, "--shards", "2", "--top", "3")
    assert code == 0 and "layer_04" in shown and "facts.jsonl, line 7: not JSON" in err
    asked = ("neurons", "3 + 5 =", "--site", "mlp", "-k", "3", "--catalogue", out)
    code, shown, err = run(*asked)
    assert (code, err) == (0, "") and "strongest in the corpus" in shown and "[[" in shown
    found = json.loads(run(*asked, "--format", "json")[1])["neurons"]
    assert any("[[" in (neuron["context"] or "") for neuron in found)
    assert "context" in run(*asked, "--format", "csv")[1].splitlines()[0]
    page = tmp_path / "page.html"
    assert run("report", "3 + 5 =", "-k", "3", "--catalogue", out, "--html", str(page))[0] == 0
    assert "in the corpus</summary>" in page.read_text()


def test_what_makes_no_catalogue_is_refused(run, tmp_path):
    code, _, err = run("catalogue", "--out", str(tmp_path))
    assert code == 2 and "--corpus FILE... --out DIR" in err
    code, _, err = run("catalogue", "--corpus", str(tmp_path / "nothing.txt"), "--out", str(tmp_path))
    assert code == 2 and "no file at" in err
    code, _, err = run("neurons", "3 + 5 =", "--catalogue", str(tmp_path))
    assert code == 1 and "holds no study" in err
