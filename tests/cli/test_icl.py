"""``tl-neuron-attr icl`` as a user meets it."""

import json

import pytest

from tests import architectures
from tl_neuron_attr import demo
from tl_neuron_attr.cli.main import main
from tl_neuron_attr.incontext import (
    from_demo,
    icl_biases,
    icl_prompts,
    in_context_heads,
    majority_correction,
    read_examples,
)

QUICK = ("--prompts", "24", "--heads", "3", "--layers", "3")


@pytest.fixture
def run(capsys):
    def command(*args):
        code = main(("icl", *args))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_it_prints_what_the_functions_give_and_writes_one_page(run, tmp_path):
    code, out, _ = run(*QUICK, "--a-c", "0.2", "--seed", "3", "--out", str(tmp_path / "icl.html"))
    model = demo.load()
    prompts = from_demo(model, demo.in_context(48, 4, counts=(2, 2), seed=3))
    found = in_context_heads(model, prompts[:24], n=3, layers=[3], seed=3, progress=False)
    report = icl_biases(
        model, prompts[24:], found.heads, seed=3, progress=False,
        majority=lambda group: majority_correction(model, group, found.heads, a_c=0.2),
    )  # fmt: skip
    assert code == 0 and str(found) in out and str(report) in out
    assert "random heads, mean of 10 sets" in out and f"wrote {tmp_path / 'icl.html'}" in out
    page = (tmp_path / "icl.html").read_text(encoding="utf-8")
    for title in ("Which heads", "Where they look", "What they copy", "Do the towers", "How large the two biases are"):
        assert title in page


def test_data_of_a_file_is_asked_about(run, tmp_path):
    path = tmp_path / "reviews.csv"
    kinds = {"good": ("great", "lovely", "superb"), "bad": ("awful", "boring", "dull")}
    rows = [f"{a} {n},{k}" for k, words in kinds.items() for a in words for n in ("movie", "plot", "song")]
    path.write_text("\n".join(["review,sentiment", *rows, ",good"]))
    columns = ("--data", str(path), "--text", "review", "--label", "sentiment", "--end", " . ")
    code, out, err = run(*QUICK, *columns)
    assert code == 0 and "in-context heads; untouched accuracy" in out and "biases before and after" in out
    assert f"left out: {path}, row 19: column 'review' is empty" in err


def test_a_model_at_chance_gets_the_report_that_says_so(run, tmp_path):
    architectures.BUILDERS["llama"]().save_pretrained(tmp_path / "model")
    architectures.tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"text": f"w{i}", "label": "even" if i % 2 == 0 else "odd"} for i in range(10, 40)]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run(
        "--model", str(tmp_path / "model"), "--data", str(tmp_path / "words.jsonl"), "--labels", "w1", "w2",
        "--separator", " w0 ", "--prompts", "10", "--out", str(tmp_path / "icl.html"),
    )  # fmt: skip
    assert code == 0 and "the model does not do this task, so no heads were searched" in out
    assert "biases" not in out and "The model does not do this task" in (tmp_path / "icl.html").read_text()


@pytest.mark.parametrize(
    "args, message",
    [
        (("--labels", "foo", "unheard-of", *QUICK), "unheard-of"),
        (("--layers", "9", "--prompts", "24"), "layers must lie between 0 and 4"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(run, tmp_path, args, message):
    page = tmp_path / "icl.html"
    code, out, err = run(*args, "--out", str(page))
    last = err.splitlines()[-1]
    assert code == 1 and out == "" and message in last and last.startswith("tl-neuron-attr: ")
    assert not page.exists()


@pytest.mark.parametrize("option", ["--per-label", "--prompts"])
def test_one_prompt_or_demonstration_is_too_few(run, option):
    code, out, err = run(option, "1")
    assert (code, out) == (2, "") and f"Invalid value for '{option}': 1 is not in the range x>=2" in err


def test_natural_labels_screened_heads_and_small_batches_are_handed_on(run, tmp_path):
    """Label words that stand for their own classes, few heads tried, as the functions give it."""
    kinds = {"good": ("great", "lovely", "superb"), "bad": ("awful", "boring", "dull")}
    rows = [f"{a} {n},{k}" for k, words in kinds.items() for a in words for n in ("movie", "plot", "song")]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["text,label", *rows]))
    given = ("--data", str(path), "--classes", "good", "bad", "--screen", "--batch-size", "5")
    code, out, _ = run(*QUICK, *given)
    model = demo.load()
    examples = read_examples(path).examples
    prompts = icl_prompts(model, examples, 48, k=4, classes=("good", "bad"), counts=(2, 2))
    assert all(prompt.classes == ("good", "bad") for prompt in prompts)
    found = in_context_heads(model, prompts[:24], n=3, layers=[3], screen=True, batch_size=5, progress=False)
    assert code == 0 and str(found) in out


def test_classes_without_data_are_refused(run):
    code, _, err = run(*QUICK, "--classes", "good", "bad")
    assert code == 2 and "--classes names classes of --data, which is missing" in err
