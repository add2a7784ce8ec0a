"""The two commands as a user meets them: output, files, exit codes, messages."""

import html
import json

import pytest

import tl_neuron_attr as tna
from tl_neuron_attr import cna, demo
from tl_neuron_attr.model.tokens import prompt_ids

PROMPT = ("6 * 7 =",)


@pytest.fixture(scope="module")
def first() -> str:
    model = demo.load()
    p = model(prompt_ids(model, *PROMPT)[None])[0, -1].detach().double().softmax(-1).max()
    return f'"42" (p {float(p):.4g}, rank 1)'


def test_cna_prints_the_chain_and_writes_its_page(run, first, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run("cna", *PROMPT, "--html", str(page), "-k", "12", "--shallow", "5")
    chain = cna.logic_chain(demo.load(), "6 * 7 =", k=12, shallow=5)
    assert code == 0 and out == f'{first} after "6 * 7 ="\n{chain}\nwrote {page}\n'
    text = page.read_text(encoding="utf-8")
    assert "From the tokens to" in text and chain.prediction_enhancing.root_neuron.labels[0] in text


def test_cna_takes_a_head_and_a_target(run, tmp_path):
    page = ("--html", str(tmp_path / "page.html"))
    code, out, _ = run("cna", *PROMPT, *page, "--head", "L3H2", "--target", "42")
    assert code == 0 and "with L3H2 zeroed" in out
    assert run("cna", *PROMPT, *page, "--head", "3,2") == (code, out, "")


def test_cna_takes_an_answer_of_several_tokens(run, tmp_path):
    page = tmp_path / "page.html"
    given = ("--target", " basketball .", "-k", "60", "--html", str(page))
    code, out, _ = run("cna", "Tim Duncan plays the sport of", *given)
    model = demo.load()
    chains = cna.logic_chains(model, "Tim Duncan plays the sport of", tna.Answer.of(model, " basketball ."), k=60)
    first, rest = out.split("\n", 1)
    assert code == 0 and rest == f"{chains}\nwrote {page}\n" and ", 2 tokens) after" in first
    assert "token by token" in page.read_text(encoding="utf-8")


def test_heads_prints_all_heads_in_three_formats(run, first):
    effects = tna.head_effects(demo.load(), "6 * 7 =", "42", progress=False)
    code, out, _ = run("heads", *PROMPT)
    assert code == 0 and out == f'{first} after "6 * 7 ="\n{effects}\n'
    found = json.loads(run("heads", *PROMPT, "--format", "json")[1])
    rows = found["heads"]
    assert [(row["layer"], row["head"]) for row in rows] == effects.ranked()
    assert (found["prompt"], found["target"], found["target_rank"]) == ("6 * 7 =", "42", 1)
    assert found["p"] == pytest.approx(float(effects.base_prob), abs=1e-5)
    _, csv, _ = run("heads", *PROMPT, "--format", "csv")
    columns = "layer,head,prob,log_prob,drop,prompt,target,p,target_rank,pos,contrast,model"
    assert len(csv.splitlines()) == 1 + len(rows) and csv.splitlines()[0] == columns


def test_heads_writes_a_page_with_a_title_and_says_where(run, first, tmp_path):
    page = tmp_path / "new" / "heads.html"
    assert run("heads", *PROMPT, "--html", str(page))[1].endswith(f"\nwrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "<title>What zeroing each head does to 42</title>" in text and "<svg" in text
    lead = html.escape(first).replace("&quot;", "&#34;")
    assert f"<h1>What zeroing each head does to 42</h1><p>{lead} after" in text


def test_heads_at_another_position(run, first):
    options = ("--target", "42", "--format", "json")
    there = json.loads(run("heads", "6 * 7 = 42", "--pos", "-2", *options)[1])
    here = json.loads(run("heads", *PROMPT, *options)[1])
    best = there["heads"][0], here["heads"][0]
    assert best[0]["drop"] == pytest.approx(best[1]["drop"], abs=1e-3) and best[0]["head"] == best[1]["head"]
    assert (there["pos"], here["pos"]) == (4, 4)
    assert json.loads(run("heads", "6 * 7 = 42", *options)[1])["heads"][0]["log_prob"] < -1
    assert run("heads", "6 * 7 = 42", "--pos", "-2")[1].startswith(f'{first} after "<bos> 6 * 7 ="\n')


@pytest.mark.parametrize(
    "command, args, message",
    [
        ("cna", ("--target", "a b"), "must be one token, it is"),
        ("cna", ("--head", "9,0"), "must lie between 0 and 4, got 9"),
        ("heads", ("--pos", "99"), "--pos must lie between -5 and 4"),
        ("heads", ("--model", "/no/such/folder"), "could not be loaded"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(run, first, tmp_path, command, args, message):
    page = tmp_path / "page.html"
    code, out, err = run(command, *PROMPT, *args, "--html", str(page))
    assert code == 1 and out in ("", f'{first} after "6 * 7 ="\n') and message in err and len(err.splitlines()) == 1
    assert not page.exists()


def test_a_head_that_is_none_is_a_usage_error(run):
    code, out, err = run("cna", *PROMPT, "--head", "three")
    assert (code, out) == (2, "") and "Invalid value for '--head': 'three' is no head: write L3H2 or 3,2" in err
