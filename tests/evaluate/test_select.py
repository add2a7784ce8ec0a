"""The selection rule against the model's own order of tokens and answers, run one by one."""

import torch

from tests import architectures
from tl_neuron_attr.evaluate import StudyPrompt, select


def test_the_selection_rule_is_the_papers():
    model = architectures.build("gpt2", dtype=torch.float32)
    texts = [f"w{i} w{i + 1}" for i in range(12)]
    ranked = {t: [f"w{j}" for j in model(t)[0, -1].argsort(descending=True).tolist() if j < 93] for t in texts}
    prompts = [
        StudyPrompt(texts[0], ranked[texts[0]][0], "best"),
        StudyPrompt(texts[1], ranked[texts[1]][40], "far"),
        StudyPrompt(texts[2], ranked[texts[2]][2], "rival"),
        StudyPrompt(texts[3], ranked[texts[2]][1], "rival"),
        StudyPrompt(texts[4], "unheard", "best"),
        StudyPrompt("", "w1", "best"),
        StudyPrompt(" ".join(["w1"] * 62), "w1 w2 w3", "best"),
    ]
    found = select(model, prompts)["status"].tolist()
    assert found[0] == "kept"
    assert found[1] == "the target is not among the 10 likeliest tokens"
    assert found[2] == "another target of its type is likelier"
    assert found[4] == "the target is empty or not in the model's vocabulary"
    assert found[5].startswith("prompt is empty")
    assert found[6] == "prompt and answer are 63 + 3 tokens, the model's context 64: 'w1 w2 w3'"


def greedy(model, text, n):
    """The model's own continuation, of words."""
    words = []
    with torch.no_grad():
        for _ in range(n):
            words.append(f"w{int(model(' '.join([text, *words]))[0, -1, :93].argmax())}")
    return words


def test_answers_are_rivals_at_the_token_where_they_part():
    """Not where one begins with the other."""
    model, text = architectures.build("gpt2", dtype=torch.float32), "w5 w9"
    with torch.no_grad():
        first = [f"w{i}" for i in model(text)[0, -1, :93].argsort(descending=True)[:2].tolist()]
        second = [f"w{i}" for i in model(f"{text} {first[0]}")[0, -1, :93].argsort(descending=True)[:2].tolist()]
    best = f"{first[0]} {second[0]}"
    asked = [best, f"{first[0]} {second[1]}", f"{first[1]} {second[0]}", first[0]]
    found = select(model, [*(StudyPrompt(text, answer, "a") for answer in asked), StudyPrompt("w1", f"{best} w1", "a")])
    rival = "another target of its type is likelier"
    assert found["status"].tolist()[:4] == ["kept", rival, rival, "kept"]
    assert found["target_tokens"].tolist() == [2, 2, 2, 1, 3]


def test_every_token_of_an_answer_must_be_likely():
    model, text = architectures.build("gpt2", dtype=torch.float32), "w5 w9"
    (word,) = greedy(model, text, 1)
    with torch.no_grad():
        order = model(f"{text} {word}")[0, -1].argsort(descending=True).tolist()
    ranks = {i: rank for rank, i in enumerate(order, 1) if i < 93}
    likely, unlikely = (next(i for i, rank in ranks.items() if rank > at) for at in (1, 10))
    found = select(model, [StudyPrompt(text, f"{word} w{i}", f"type {i}") for i in (likely, unlikely)])
    assert found["status"].tolist() == ["kept", "the target is not among the 10 likeliest tokens"]
