from random import Random

from tl_neuron_attr import demo
from tl_neuron_attr.demo import sentences
from tl_neuron_attr.demo.gender import NEW_OCCUPATION_TEMPLATES, OCCUPATION_TEMPLATES, SHARES


def test_every_occupation_stands_in_every_template():
    prompts = demo.occupations()
    assert len({p.text for p in prompts}) == len(prompts) == len(SHARES) * len(OCCUPATION_TEMPLATES)
    assert {(p.subject, p.share) for p in prompts} == set(SHARES.items())
    assert all(p.text == p.template.replace("{}", p.subject) for p in prompts)


def test_new_templates_are_not_trained_on_but_their_words_are():
    assert not set(NEW_OCCUPATION_TEMPLATES) & set(OCCUPATION_TEMPLATES)
    assert {w for t in NEW_OCCUPATION_TEMPLATES for w in t.split()} <= {
        w for t in OCCUPATION_TEMPLATES for w in t.split()
    }
    assert {p.template for p in demo.occupations(new=True)} == set(NEW_OCCUPATION_TEMPLATES)


def test_the_share_of_she_in_training_sentences_is_the_stated_one():
    rng = Random(0)
    seen: dict[str, list[bool]] = {o: [] for o in SHARES}
    for _ in range(30_000):
        words = [t.word for t in sentences.occupation(rng)]
        (pronoun,) = [w for w in words if w in ("she", "he")]
        for occupation in seen.keys() & set(words):
            seen[occupation].append(pronoun == "she")
    for occupation, outcomes in seen.items():
        error = abs(sum(outcomes) / len(outcomes) - SHARES[occupation])
        assert error < 4.5 * (0.25 / len(outcomes)) ** 0.5, occupation


def test_the_answer_is_the_more_frequent_pronoun():
    assert {p.answer for p in demo.occupations() if p.subject == "nurse"} == {"she"}
    assert {p.answer for p in demo.occupations() if p.subject == "plumber"} == {"he"}
