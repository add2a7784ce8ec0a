"""What the benchmarks compare with, and what they ask: right before they are timed or trained."""

import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import competitors
import measure
import srnn as srnn_speed
import srnn_documents
import srnn_quality
import srnn_report
import srnn_reviews
import srnn_tasks
import srnn_training


@pytest.mark.parametrize("T", [1, 5, 8, 9, 64, 77, 600])
def test_the_scan_is_a_loop(T):
    a, b = torch.rand(2, T, 3, dtype=torch.float64), torch.randn(2, T, 3, dtype=torch.float64)
    h, states = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(T):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    torch.testing.assert_close(competitors.scan(a, b), torch.stack(states, dim=1), rtol=0, atol=1e-12)


def test_min_gru_is_its_recurrence():
    """h' = (1 - z) h + z (W x), with z seeing the input only."""
    model, x = competitors.MinGRU(3, 4).double(), torch.randn(2, 20, 3, dtype=torch.float64)
    (w_z, w_h), (b_z, b_h) = model.linear.weight.chunk(2), model.linear.bias.chunk(2)
    h = torch.zeros(2, 4, dtype=torch.float64)
    for t in range(20):
        z = torch.sigmoid(x[:, t] @ w_z.T + b_z)
        h = (1 - z) * h + z * (x[:, t] @ w_h.T + b_h)
    torch.testing.assert_close(model(x), h, rtol=0, atol=1e-12)


def test_qrnn_is_its_recurrence():
    """Width 2, fo-pooling: c' = f c + (1 - f) z, and o c is read."""
    model, x = competitors.QRNN(3, 4).double(), torch.randn(2, 20, 3, dtype=torch.float64)
    c, before = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    for t in range(20):
        both = before @ model.conv.weight[..., 0].T + x[:, t] @ model.conv.weight[..., 1].T + model.conv.bias
        z, f, o = both[:, :4].tanh(), both[:, 4:8].sigmoid(), both[:, 8:].sigmoid()
        c, before = f * c + (1 - f) * z, x[:, t]
    torch.testing.assert_close(model(x), o * c, rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [8, 512])
def test_the_causal_cnn_sees_every_step(T):
    model = competitors.DCCNN(3, 4, T)
    for layer in model.layers:  # nothing rectified, so that every path counts
        nn.init.uniform_(layer.weight, 0.5, 1)
    x = torch.rand(1, T, 3, requires_grad=True)
    model(x).sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all()
    assert [layer.dilation[0] for layer in model.layers] == [2**i for i in range(T.bit_length() - 1)]


def test_matched_models_have_as_many_parameters_as_they_may():
    model, width = competitors.matched(lambda w: nn.Linear(10, w), 100)
    assert width == 9 and competitors.parameters(model) == 99


def makes(name, T):
    return srnn_tasks.TASKS[name].make(200, T, torch.Generator().manual_seed(3))


def test_majority_counts_praise_and_blame_and_what_is_negated():
    for words, answer in zip(*(t.tolist() for t in makes("majority", 512)), strict=True):
        total = 0
        for before, word in zip([0, *words], words, strict=False):
            if word in (1, 2):
                total += (1 if word == 1 else -1) * (-1 if before == 3 else 1)
        assert answer == (total > 0)
    ids, labels = makes("majority", 512)
    negators = (ids == 3).nonzero()[:, 1] + 1
    assert 0.1 < (negators % 8 == 0).float().mean() < 0.15, "slices of 8 part an eighth of the pairs"
    plain = ((ids == 1).sum(1) > (ids == 2).sum(1)).long()
    assert 0.7 < (plain == labels).float().mean() < 0.92


def test_order_asks_which_marker_is_first():
    for words, answer in zip(*(t.tolist() for t in makes("order", 64)), strict=True):
        assert words.count(4) == words.count(5) == 1
        assert answer == (words.index(4) < words.index(5))


def test_recall_asks_for_an_early_symbol():
    for words, answer in zip(*(t.tolist() for t in makes("recall", 512)), strict=True):
        symbols = [(place, word) for place, word in enumerate(words) if word <= 8]
        assert len(symbols) == 1 and symbols[0][1] == answer + 1 and symbols[0][0] < 512 // 20


@pytest.mark.parametrize("name", srnn_tasks.TASKS)
def test_answers_are_as_likely_and_a_seed_makes_the_same(name):
    ids, labels = makes(name, 512)
    classes = srnn_tasks.TASKS[name].classes
    assert (labels.bincount(minlength=classes) / len(labels) - 1 / classes).abs().max() < 0.1
    assert torch.equal(ids, makes(name, 512)[0]) and ids.min() >= 1 and ids.max() <= srnn_tasks.WORDS


def test_training_stops_after_its_epochs_and_tests_at_its_best():
    torch.manual_seed(0)
    ids = torch.randint(1, 5, (40, 6))
    labels = (ids[:, 0] > 2).long()
    model = srnn_training.Reader(4, 8, nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), 8, 2)
    epoch = list(zip(ids.split(10), labels.split(10), strict=True))
    curve = srnn_training.train(model, lambda _: epoch, (ids, labels), (ids, labels), lr=0.02, epochs=12)
    assert [p.epoch for p in curve.points] == list(range(1, 13))
    assert curve.test == curve.best.accuracy == 1.0
    assert curve.after(epoch=1) == curve.points[0].accuracy and curve.after(seconds=0) != curve.after(seconds=0)
    short = srnn_training.train(model, lambda _: epoch, (ids, labels), None, lr=0.02, seconds=0.0)
    assert short.last.epoch == 0


REVIEWS = [f'{1 + i % 5},Title {i},"It\'s GOOD, really-good: word{i % 3}"' for i in range(20)]


@pytest.mark.parametrize(
    ("header", "lines"),
    [
        (None, REVIEWS),
        ("stars,id,text", [f'{1 + i % 5},x,"Title {i} It\'s GOOD, really-good: word{i % 3}"' for i in range(20)]),
    ],
)
def test_reviews_as_published(tmp_path, header, lines):
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join([*([header] if header else []), *lines]))
    documents = srnn_reviews.load([path], T=6, words=5)
    assert [len(part[1]) for part in (documents.train, documents.validation, documents.test)] == [16, 2, 2]
    assert documents.classes == 5
    assert documents.vocabulary[:4] == ("good", "it's", "really", "title")
    text = ["title", "it's", "good", "really", "good"]
    ids = torch.tensor([documents.vocabulary.index(word) + 1 for word in text])
    assert all(torch.equal(row[:5], ids) for row in documents.test[0])


def test_text_files_of_a_class_each(tmp_path):
    for name in ("neg", "pos"):
        (tmp_path / f"rt.{name}").write_text("".join(f"{name} sentence {i} .\n" for i in range(10)))
    documents = srnn_reviews.load([tmp_path / "rt.pos", tmp_path / "rt.neg"], T=3)
    names = [documents.vocabulary[i - 1] for i in documents.train[0][:, 0]]
    assert names == ["neg" if label == 0 else "pos" for label in documents.train[1]]


def test_glove_vectors_start_the_words_they_name(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("good 1 2 3\nunseen 4 5 6\n")
    vectors = srnn_reviews.glove(path, ("bad", "good"), 3, torch.Generator())
    assert vectors[0].eq(0).all() and vectors[2].tolist() == [1, 2, 3] and vectors[1].abs().max() <= 0.05
    with pytest.raises(ValueError, match="the vector of 'good' has 3 features, not 4"):
        srnn_reviews.glove(path, ("good",), 4, torch.Generator())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "reviews.csv is empty"),
        ("1,a\n2,b,c\n", "document 2 has 3 columns, the first has 2"),
        ("1,a\n", "at least 10"),
    ],
)
def test_malformed_review_files_are_named(tmp_path, text, words):
    path = tmp_path / "reviews.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        srnn_reviews.load([path], T=4)


def test_tables_and_csv_are_made_from_the_records(tmp_path):
    def record(way, seconds):
        timing = measure.Timing((seconds,) * 3, (seconds,) * 3, 7.0)
        return srnn_report.Record("against unsliced", 32768, 1, "forward + backward", way, 10, timing, "n=[8, 8]")

    records = [record("nn.GRU", 4.0), record("nn.LSTM", 0.05), record("SRNN(8,2)", 0.1)]
    assert "| 4,000 | 50 (80x) | 100 (40x) |" in srnn_report.ratios(records, "nn.GRU")
    assert "| 40 SRNN(8,2) | 40 SRNN(8,2) | 1 of 1 |" in srnn_report.targets(records)
    assert "| nn.LSTM | 2x faster |" in srnn_report.losses(records, "SRNN(8,2)")
    assert "nn.GRU" not in srnn_report.losses(records, "SRNN(8,2)")
    srnn_report.write_csv(records, tmp_path / "t.csv")
    row = list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))[3]
    assert row[:6] == ["against unsliced", "32768", "1", "forward + backward", "SRNN(8,2)", "n=[8, 8]"]
    assert row[6:9] == ["10", "3", "100"]
    assert "| 32768 | 1 | n=[8, 8] |" in srnn_report.suggestions(records, "SRNN(8,2)")
    srnn_report.plot(records, tmp_path / "t.svg")
    assert "<svg" in (tmp_path / "t.svg").read_text()


def test_cases_are_chosen_by_the_steps_they_hold():
    found = srnn_speed.cases([512, 8192, 32768], [1, 8, 100], most=8192 * 8)
    assert [(c.T, c.batch) for c in found] == [(512, 1), (512, 8), (512, 100), (8192, 1), (8192, 8), (32768, 1)]
    assert (32768, 100) not in [(c.T, c.batch) for c in srnn_speed.cases([32768], [8, 100], most=10**9)]


def test_models_of_a_task_are_trained_and_told_apart_in_the_table():
    task = srnn_tasks.TASKS["majority"]
    choices = {"hidden": 4, "models": ["GRU", "SRNN(8,2)"], "rates": [1e-2]}
    outcomes = srnn_quality.run_task(task, 512, 0.01, [0, 1], **choices)
    assert [(o.model, len(o.curves), o.lr) for o in outcomes] == [("GRU", 2, 1e-2), ("SRNN(8,2)", 2, 1e-2)]
    table = srnn_quality.outcome_table(outcomes).splitlines()
    assert table[2].startswith("| GRU | ") and table[3].startswith("| SRNN(8,2) | ")
    tested = [100 * c.test for c in outcomes[1].curves]
    assert table[3].rstrip(" |").split("| ")[-1].startswith(f"{sum(tested) / 2:.1f} ± ")
    assert max(o.parameters for o in outcomes) <= 1.02 * min(o.parameters for o in outcomes) + 200


def test_time_and_memory_are_measured():
    found = measure.side_by_side({"none": lambda: None, "much": lambda: torch.ones(2**24).sum()}, runs=3)
    assert len(found["much"].seconds) == len(found["much"].cpu_seconds) == 3
    assert found["much"].median > found["none"].median
    assert 60 < found["much"].peak_mib < 80 and found["none"].peak_mib < 10


@pytest.fixture
def reviews(tmp_path):
    """Sentences of two classes, each of its own word and of what all share; the number of words tells each apart."""
    for name, word in (("bad", "awful"), ("good", "fine")):
        (tmp_path / name).write_text("".join(f"{word} the {'film ' * (i % 7)}{name}{i % 50}\n" for i in range(200)))
    return [tmp_path / "bad", tmp_path / "good"]


def test_documents_lean_to_their_class_and_are_as_long_as_asked(reviews):
    task = srnn_documents.documents(reviews)
    awful, fine = (torch.tensor(i) for i in known_words(task, reviews))
    for make in (task.make, *task.held_out):
        texts, labels = make(60, 256, torch.Generator().manual_seed(0))
        assert texts.shape == (60, 256) and texts.min() >= 1 and texts.max() <= task.words
        assert set(labels.tolist()) == {0, 1}
        bad, good = ((texts == word).sum(1) for word in (awful, fine))
        share = torch.where(labels == 1, good, bad).sum() / (good + bad).sum()
        assert abs(share - srnn_documents.LEAN) < 0.03
        assert torch.equal(texts, make(60, 256, torch.Generator().manual_seed(0))[0])


def known_words(task, reviews):
    """Return the ids of "awful" and "fine": words of training are numbered in their order from 1."""
    words = sorted({word for path in reviews for line in path.read_text().splitlines() for word in line.split()})
    assert len(words) == task.words
    return words.index("awful") + 1, words.index("fine") + 1


def test_no_sentence_of_training_is_tested(tmp_path):
    """Each sentence has words of its own; the parts then share none but those that fill."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("".join(f"{name}{i} {name}{i} fill\n" for i in range(100)))
    task = srnn_documents.documents([tmp_path / "a", tmp_path / "b"])
    train, *held_out = (set(m(50, 64, torch.Generator().manual_seed(1))[0].flatten().tolist()) for m in
                        (task.make, *task.held_out))  # fmt: skip
    assert len(train) > 100 and all(len(part) == 1 and part < train for part in held_out)


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_documents_train_every_model(reviews, seconds, monkeypatch):
    """With word vectors that were trained before, and without."""
    monkeypatch.setattr("sys.argv", ["srnn_documents.py", "--data", *map(str, reviews), "--rates", "0.01"])
    args = srnn_documents.arguments()
    vectors = srnn_documents.bag_vectors(srnn_documents.documents(args.data), seconds) if seconds else None
    outcome = srnn_documents.train_one(reviews, 512, "no order", args, seconds=0.01, vectors=vectors)
    budget = outcome.parameters
    for name in srnn_documents.MODELS:
        build, multiple = srnn_documents.MODELS[name]
        model, width = competitors.matched(build, budget, multiple=multiple)
        assert model(torch.randn(2, 512, srnn_quality.EMBEDDING)).shape == (2, width), name
    assert outcome.task == "documents" and len(outcome.curves) == len(srnn_quality.SEEDS)
