"""``report``, ``neurons``, ``query`` and ``trace`` as a user meets them."""

import json

import pytest

import tl_neuron_attr as tna
from tests import architectures
from tl_neuron_attr import demo

PROMPT = ("--prompt", "Tim Duncan plays the sport of")


def test_report_writes_one_page_and_says_where(run, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = run("report", *PROMPT, "--target", " basketball", "--html", str(page))
    assert code == 0 and out.startswith('"basketball" (p ') and out.endswith(f"\nwrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "What made the model say" in text and "basketball" in text and len(text) <= 6e6


def test_the_models_own_prediction_is_the_default_target(run):
    given = run("neurons", *PROMPT, "--target", " basketball", "-k", "3")
    assert run("neurons", *PROMPT, "-k", "3") == given
    assert given[0] == 0 and "promotes" in given[1]


def test_csv_and_json_hold_the_same_neurons(run):
    _, csv, _ = run("neurons", *PROMPT, "-k", "4", "--format", "csv", "--site", "mlp")
    _, text, _ = run("neurons", *PROMPT, "-k", "4", "--format", "json", "--site", "mlp")
    rows = json.loads(text)["neurons"]
    assert [line.split(",")[1] for line in csv.splitlines()[1:]] == [row["neuron"] for row in rows]
    assert {row["site"] for row in rows} == {"mlp"} and len(rows) == 4


def test_suppressing_neurons_score_below_zero(run):
    _, text, _ = run("neurons", *PROMPT, "-k", "4", "--format", "json", "--suppressing")
    assert all(row["score"] < 0 for row in json.loads(text)["neurons"])


def test_contrast_and_position_change_what_is_asked(run):
    plain = run("neurons", *PROMPT, "--target", " basketball", "-k", "3")
    assert run("neurons", *PROMPT, "--target", " basketball", "-k", "3", "--contrast", " golf") != plain
    assert run("neurons", *PROMPT, "--target", " basketball", "-k", "3", "--pos", "2") != plain
    assert run("neurons", *PROMPT, "--target", " basketball", "-k", "3", "--no-bos") != plain


def test_a_directory_is_loaded_as_a_model(run, tmp_path):
    architectures.BUILDERS["llama"]().save_pretrained(tmp_path)
    architectures.tokenizer().save_pretrained(tmp_path)
    code, out, _ = run("neurons", "--prompt", "w1 w2 w3", "--target", "w5", "-k", "2", "--model", str(tmp_path))
    assert code == 0 and "L" in out


@pytest.mark.parametrize(
    "args, message",
    [
        (("--target", " golf .", "--pos", "2"), "--pos 2 given with several tokens, which follow the prompt"),
        (("--chat",), "the tokenizer has no chat template"),
        (("--pos", "99"), "must lie between -7 and 6"),
        (("-k", "99999999"), "-k must be between 1 and"),
        (("--model", "/no/such/folder"), "model '/no/such/folder' could not be loaded"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(run, tmp_path, args, message):
    page = tmp_path / "page.html"
    for command in (("neurons", *PROMPT), ("report", *PROMPT, "--html", str(page))):
        code, out, err = run(*command, *args)
        assert code == 1 and out.count("\n") < 2 and message in err and len(err.splitlines()) == 1
    assert not page.exists()


def test_an_empty_prompt_is_named(run):
    assert run("neurons", "--prompt", "")[0::2] == (1, "tl-neuron-attr: ValueError: --prompt is empty\n")


def test_a_missing_folder_is_made(run, tmp_path):
    page = tmp_path / "a" / "b" / "page.html"
    assert run("report", *PROMPT, "-k", "3", "--html", str(page))[0] == 0 and page.exists()


def test_every_bundled_kind_of_prompt_can_be_asked(run):
    for prompt in (demo.facts()[0], demo.arithmetic("+")[7], demo.in_context(1, 4)[0], demo.occupations()[0]):
        assert run("neurons", "--prompt", prompt.text, "--target", prompt.answer, "-k", "1")[0] == 0


def test_query_prints_what_the_function_gives(run):
    _, cache = demo.load().run_with_cache(PROMPT[1])
    value = tna.value_neurons(cache, "basketball", k=12)
    query = tna.query_neurons(cache, value, 4, sites="mlp")
    code, out, _ = run("query", *PROMPT, "--value", "12", "-k", "4", "--site", "mlp")
    first, caption, rows = out.split("\n", 2)
    assert code == 0 and first.startswith('"basketball" (p ') and caption == "scores in nats"
    assert rows == str(query[0]).split("\n", 1)[1] + "\n"
    found = json.loads(run("query", *PROMPT, "--value", "12", "-k", "4", "--format", "json")[1])["neurons"]
    expected = tna.query_neurons(cache, value, 4)[0]
    assert [row["neuron"] for row in found] == expected.labels
    assert [row["score"] for row in found] == pytest.approx(expected.score.tolist())


def test_trace_prints_what_the_function_gives_and_draws_it(run, tmp_path):
    _, cache = demo.load().run_with_cache(PROMPT[1])
    flow = tna.trace(cache, "basketball", k=12, heads=4, queries=5)
    sizes = ("-k", "12", "--heads", "4", "--queries", "5")
    code, out, _ = run("trace", *PROMPT, *sizes, "--html", str(tmp_path / "flow.html"))
    assert code == 0 and out.split("\n", 1)[1] == f"{flow}\nwrote {tmp_path / 'flow.html'}\n"
    assert "<h1>From the tokens to basketball</h1>" in (tmp_path / "flow.html").read_text(encoding="utf-8")
    edges = json.loads(run("trace", *PROMPT, *sizes, "--format", "json")[1])["edges"]
    assert len(edges) == flow.graph.number_of_edges() and edges[0]["weight"] > edges[-1]["weight"]
    assert run("trace", *PROMPT, *sizes, "--format", "csv")[1].startswith("from,to,kind,weight,prompt,target,p,")


def test_json_has_null_for_what_a_neuron_lacks(run):
    rows = json.loads(run("neurons", *PROMPT, "--format", "json")[1])["neurons"]
    assert {row["site"] for row in rows} == {"mlp", "attn"}
    for row in rows:
        lacks = row["site"] == "mlp"
        assert (row["head"] is None) == (row["source"] is None) == lacks


def test_an_answer_of_several_tokens_is_explained_whole(run):
    model = demo.load()
    q = tna.answer(model, PROMPT[1], " basketball .")
    code, text, _ = run("neurons", *PROMPT, "--target", " basketball .", "-k", "4", "--format", "json")
    found = json.loads(text)
    assert code == 0 and found["p"] == pytest.approx(float(q.log_prob.exp()), abs=1e-6)
    value = tna.value_neurons(q, k=4)
    assert [row["neuron"] for row in found["neurons"]] == value.labels
    assert [row["score"] for row in found["neurons"]] == pytest.approx(value.score.tolist(), abs=1e-5)
    code, text, _ = run("neurons", *PROMPT, "--target", " basketball .", "-k", "4")
    assert code == 0 and text.startswith('" basketball ." (p ') and "2 tokens) after" in text
    for command in ("query", "trace"):
        assert run(command, *PROMPT, "--target", " basketball .")[0] == 0
    contrast = run("neurons", *PROMPT, "--target", " basketball .", "--contrast", " golf", "-k", "4")
    assert contrast[0] == 0 and 'against " golf" (1 token)' in contrast[1] and contrast[1] != text


def test_heads_of_an_answer_of_several_tokens(run):
    code, text, _ = run("heads", *PROMPT, "--target", " basketball .", "--format", "json")
    assert code == 0 and json.loads(text)["heads"][0]["drop"] > 0


def test_report_of_an_answer_of_several_tokens(run, tmp_path):
    page = tmp_path / "answer.html"
    args = ("--target", " basketball .", "-k", "3", "--heads", "2", "--html", str(page))
    code, text, _ = run("report", *PROMPT, *args)
    assert code == 0 and text.startswith('" basketball ." (p ')
    assert "whole answer" in page.read_text()


def test_report_of_a_file_of_prompts(run, tmp_path):
    page, prompts = tmp_path / "several.html", tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "3 + 5 ="}\n{"prompt": "Tim Duncan plays the sport of", "target": " golf"}\n')
    code, text, _ = run("report", "--prompts", str(prompts), "-k", "2", "--heads", "1", "--html", str(page))
    first, second, wrote = text.splitlines()
    assert code == 0 and first.startswith('"8" (p ') and '"golf" (p ' in second.replace('" golf', '"golf')
    assert wrote == f"wrote {page}" and "all prompts" in page.read_text()
    assert run("report", *PROMPT, "--prompts", str(prompts), "--html", str(page))[0] != 0


def test_a_target_by_its_token_ids_is_the_target_by_its_text(run):
    model = demo.load()
    prompt = "Tim Duncan plays the sport of"
    for text in ("basketball", "basketball ."):
        ids = ",".join(map(str, model.tokenizer.encode(text, add_special_tokens=False)))
        for command in (["neurons", "-k", "5"], ["heads"]):
            options = [*command, "--format", "json"]
            _, by_id, _ = run(*options, prompt, "--target-id", ids)
            _, by_text, _ = run(*options, prompt, "--target", text)
            assert json.loads(by_id) == json.loads(by_text)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--target", "8", "--target-id", "19"], "exclude each other"),
        (["--target-id", "1x"], "'1x' is no list of token ids: write 1234, or 1234,567"),
        (["--target-id", ""], "is no list of token ids"),
        (["--target-id", "100000"], "--target-id must be a token id between 0 and"),
        (["--target-id", "19,100000"], "--target-id must hold token ids between 0 and"),
    ],
)
def test_token_ids_that_name_no_target_are_refused(run, options, message):
    code, out, err = run("neurons", "3 + 5 =", *options)
    assert code in (1, 2) and message in err and not out


def test_report_of_the_models_own_continuation(run, tmp_path):
    page = tmp_path / "said.html"
    code, out, _ = run("report", *PROMPT, "--max-new-tokens", "2", "--html", str(page))
    assert code == 0 and "basketball" in out and "best neuron" in out
    assert "What the model said, token by token" in page.read_text()
    for options in (["--target", "8"], ["--target-id", "19"], ["--contrast", "8"], ["--pos", "2"]):
        code, _, err = run("report", "3 + 5 =", "--max-new-tokens", "2", *options)
        assert code == 2 and f"leave out {options[0]}" in err
