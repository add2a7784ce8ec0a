"""The scripts behind ``make results-real`` on the bundled model: sections that run, and say what they must."""

import argparse
from collections import Counter
from dataclasses import replace

import pytest
import torch

import tl_neuron_attr as tna
from tests import oracle


@pytest.fixture
def incontext_real(script):
    return script("incontext_real")


def options(**changed):
    given = {"heads": 3, "known": None, "batch_size": 64, "even": 2, "orders": 2, "seed": 0, "sections": ["shift"]}
    given |= {"every_head": False}
    return argparse.Namespace(**given | changed)


def prompts(model, n, **options):
    return tna.incontext.from_demo(model, tna.demo.in_context(n, 4, **options))


def test_paper_2_is_measured_on_the_heads_that_its_first_section_found(incontext_real):
    model = tna.demo.load()
    seen, few = prompts(model, 16, query="strong"), prompts(model, 8, counts=(2, 2))
    found = {title: body() for title, body in incontext_real.sections(model, seen, few, few, options())}
    heads, shift = found.values()
    assert list(found) == [
        "Heads found, and zeroed together (16 prompts, half to find, half to measure)",
        "Labels reversed (8 prompts; Tables 5 and 6)",
    ]
    named = {line.split("|")[1].strip() for line in heads.split("\n\n")[1].splitlines()[2:]}
    assert len(named) == 3 and named == {line.split("|")[1].strip() for line in shift.splitlines()[4:]}
    assert "| found heads" in heads and "| random heads" in heads


def test_a_model_that_does_not_do_the_task_has_no_later_sections(incontext_real):
    model = tna.demo.load()
    drawn = prompts(model, 16, query="strong")
    wrong = [replace(prompt, gold=1 - prompt.gold) if i % 2 else prompt for i, prompt in enumerate(drawn)]
    found = [body() for _, body in incontext_real.sections(model, wrong, wrong, wrong, options())]
    assert len(found) == 1 and "does not do this task, so no heads were searched" in found[0]


@pytest.mark.parametrize("n, orders", [(2, 4), (4, 6), (4, 10)])
def test_orders_hold_each_label_as_often_last_and_are_different(incontext_real, n, orders):
    found = incontext_real.orders(options(even=n, orders=orders))
    assert len(found) == len({tuple(order) for order in found}) == orders
    assert all(sorted(order) == [0] * n + [1] * n for order in found)
    assert sum(order[-1] for order in found) == orders / 2


def test_texts_are_lines_of_one_file_per_class_or_rows_and_long_ones_are_left_out(incontext_real, tmp_path):
    for name, text in (("films.pos", "great\n\na joy to see\n"), ("films.neg", "dull and far too long\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "films.csv").write_text("text,label\ngreat,good\ndull and far too long,bad\n")
    lines = incontext_real.examples([tmp_path / "films.pos", tmp_path / "films.neg"], 4)
    assert [(each.text, each.label) for each in lines] == [("great", "films.pos"), ("a joy to see", "films.pos")]
    rows = incontext_real.examples([tmp_path / "films.csv"], 9)
    assert [(each.text, each.label) for each in rows] == [("great", "good"), ("dull and far too long", "bad")]
    assert len(incontext_real.examples([], 1)) == 40


@torch.no_grad()
def test_words_that_heads_write_are_those_of_their_writes_read_out(script):
    model = tna.demo.load()
    given, heads = prompts(model, 6, counts=(2, 2)), [(3, 7), (1, 5)]
    found = script("incontext_words").written_words(model, given, heads)
    assert found["head"].unique().tolist() == ["L3H7", "L1H5", "2 random heads"]
    _, cache = model.run_with_cache(tna.incontext.batch_of(model, given).tokens)
    gain = model.ln_final.w[:, None] * model.W_U
    for (layer, head), (name, group) in zip(heads, found.groupby("head", sort=False), strict=False):
        assert name == f"L{layer}H{head}"
        for label, row in zip((0, 1), group.sort_values("at", ascending=False).to_dict("records"), strict=True):
            own, other, ranks = [], [], []
            for i, prompt in enumerate(given):
                writes = oracle.writes(cache, layer, "attn", i, -1).sum(2)[head]
                at = [p for p, of in zip(prompt.label_positions, prompt.sequence, strict=True) if of == label]
                logits = writes[at].float() @ gain.float()
                best = logits.topk(10).indices
                mine, its = prompt.label_ids[label], prompt.label_ids[1 - label]
                own += (best == mine).any(1).tolist()
                other += (best == its).any(1).tolist()
                ranks += (1 + (logits > logits[:, mine, None]).sum(1)).tolist()
            assert row["at"] == given[0].labels[label]
            assert float(row["writes it"].split()[0]) == pytest.approx(sum(own) / len(own), abs=0.006)
            assert float(row["writes the other"].split()[0]) == pytest.approx(sum(other) / len(other), abs=0.006)
            assert float(row["its median rank"]) == pytest.approx(
                torch.tensor(ranks).double().quantile(0.5).item(), abs=0.51
            )


@torch.no_grad()
def test_accuracies_of_tasks_are_those_of_the_answers_counted_one_by_one(script):
    tasks, model = script("incontext_tasks"), tna.demo.load()
    words = {"good": "great lovely superb perfect", "bad": "awful boring dull ugly"}
    texts = [tna.incontext.Example(f"{word} movie", kind) for kind, of in words.items() for word in of.split()]
    given = argparse.Namespace(queries=8, batch_size=3, seed=1)
    row = tasks.measured(model, "words", {"examples": texts, "k": 4, "end": "space"}, given)
    among, over, odds = [], [], []
    for prompt in tna.incontext.icl_prompts(model, texts, 8, k=4, seed=1):
        logits = model(torch.tensor([prompt.tokens]))[0, -1]
        right, wrong = (logits[prompt.label_ids[label]] for label in (prompt.gold, 1 - prompt.gold))
        among.append(bool(right > wrong))
        over.append(bool(right == logits.max()))
        odds.append(float(right - wrong))
    assert row["among labels"].startswith(f"{sum(among) / 8:.3f} [") and sum(among) > 0
    assert row["over the vocabulary"].startswith(f"{sum(over) / 8:.3f} [")
    assert row["log-odds (nats)"].startswith(f"{sum(odds) / 8:+.2f} [")


def test_tasks_are_words_with_both_ends_and_texts_with_labels_drawn_and_fixed(script, tmp_path):
    files = [tmp_path / "films.pos", tmp_path / "films.neg"]
    for file in files:
        file.write_text("great\n")
    given = argparse.Namespace(data=files, longest=3, shots=8, natural=["positive", "negative"], natural_shots=4)
    yielded = script("incontext_tasks").conditions(given)
    found = [(task, drawn["end"], drawn["k"], drawn.get("classes")) for task, drawn in yielded]
    plain = [("words", "line break", 8, None), ("words", "space", 8, None), ("texts", "line break", 8, None)]
    assert found == [*plain, ("texts", "line break", 4, ["films.pos", "films.neg"])]


def test_neurons_found_by_vocabulary_stand_beside_as_many_random_ones_of_each_layer(script, monkeypatch):
    shallow_script, model = script("arithmetic_shallow"), tna.demo.load()
    monkeypatch.setattr(shallow_script, "MORE_THAN", (4,))
    found = tna.cna.concept_neurons(model, shallow_script.WORDS, layers=[0, 2], attn_layers=[2], progress=False)
    chosen = found.more_than(4)
    drawn = shallow_script.random_beside(found, chosen, seed=1)
    assert len(set(drawn)) == len(drawn) and set(drawn) != set(chosen)
    assert Counter(layer for _, layer, _ in drawn) == Counter(layer for _, layer, _ in chosen)
    sums = tna.cna.arithmetic_cases(model, tna.cna.problems("+", digits=1, n=8))
    table = shallow_script.found_by_vocabulary(model, {"sums": sums}, found, seed=1)
    right = sum(tna.cna.answered(model, sums))
    with tna.ablate(model, chosen):
        left = sum(tna.cna.answered(model, sums))
    row, beside = table.to_dict("records")
    assert (row["zeroed"], beside["zeroed"], row["neurons"]) == ("concept", "random", len(chosen))
    assert row[f"sums, % lost of {right}"].startswith(f"{100 - 100 * left / right:.0f} [")


def test_tokens_of_shallow_neurons_are_counted_before_and_behind_their_hop(script):
    shallow_script, model = script("arithmetic_shallow"), tna.demo.load()
    chain = tna.cna.logic_chain(model, "3 + 5 =", shallow=4, progress=False)
    rows = shallow_script.read_moved(model, chain, seed=0)
    shallow, words = chain.feature_enhancing, shallow_script.WORDS
    for i, (row, hop) in enumerate(zip(rows[:4], shallow.hop.tolist(), strict=True)):
        via = chain.feature_transferring.hops[hop]
        moved = tna.transformed_tokens(model, shallow.neurons, via.layer, via.head, k=50).promoted[i]
        assert row == {
            "neurons": "of the chain",
            "before": sum(t.strip() in words for t in tna.top_tokens(model, shallow.neurons, 50).promoted[i]),
            "after": sum(t.strip() in words for t in moved),
        }
    assert [row["neurons"] for row in rows] == ["of the chain"] * 4 + ["random"] * 4
