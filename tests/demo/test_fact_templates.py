"""How facts are said: templates enough, and those kept for measuring are new in their whole, not in their words."""

import pytest

from tl_neuron_attr import demo
from tl_neuron_attr.demo.fact_templates import FACT_TEMPLATES, NEW_FACT_TEMPLATES, PREFIXES, TUNING_FACT_TEMPLATES


def test_several_hundred_facts_and_fourteen_templates_or_more_each():
    assert len({(p.kind, p.subject) for p in demo.facts()}) >= 300
    assert min(len(templates) for templates in FACT_TEMPLATES.values()) >= 14


def test_new_templates_are_new_but_their_words_are_trained_on():
    known = {word for group in FACT_TEMPLATES.values() for t in group for word in t.split()}
    known |= {word for prefix in PREFIXES for word in prefix.split()}
    for kind in demo.KINDS:
        for template in (*NEW_FACT_TEMPLATES[kind], *TUNING_FACT_TEMPLATES[kind]):
            assert template not in FACT_TEMPLATES[kind]
            assert set(template.split()) <= known, template


@pytest.mark.parametrize("templates", [FACT_TEMPLATES, NEW_FACT_TEMPLATES, TUNING_FACT_TEMPLATES])
def test_every_kind_has_templates_with_one_place_for_the_subject(templates):
    assert set(templates) == set(demo.KINDS)
    assert all(t.count("{}") == 1 and t.split().count("{}") == 1 for group in templates.values() for t in group)
