from tl_neuron_attr import demo
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


def test_the_answer_is_the_more_frequent_pronoun():
    assert {p.answer for p in demo.occupations() if p.subject == "nurse"} == {"she"}
    assert {p.answer for p in demo.occupations() if p.subject == "plumber"} == {"he"}
