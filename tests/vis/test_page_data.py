import json

from tests.vis.test_report import HOSTILE
from tl_neuron_attr.knowledge.token_words import WordList
from tl_neuron_attr.vis.head_rows import HeadRow
from tl_neuron_attr.vis.neuron_rows import NeuronRow
from tl_neuron_attr.vis.page_data import page_data, records

TOKENS = WordList(tuple(HOSTILE), (True,) * len(HOSTILE))


def test_hostile_text_comes_back_and_opens_no_element():
    markup = page_data({"tokens": HOSTILE})
    assert "<" not in markup
    assert json.loads(markup)["tokens"] == HOSTILE


def test_records_hold_all_digits_and_null_for_none():
    mlp = NeuronRow(
        1, "L3N7", "mlp", -1, "", 0.123456789, 1.5, 1.0, None, None, TOKENS, TOKENS, 7, 0.5, ((" Rome", 0.25),)
    )
    attn = NeuronRow(2, "L3H1D2@4", "attn", 4, " city", -0.5, 0.5, 0.3, -0.1, TOKENS, TOKENS, TOKENS, 9)
    head = HeadRow(3, 1, 0.75, 4, " city", 0.7, 0.9, TOKENS, 3)
    first, second, third = records([mlp, attn, head])
    assert first["activation"] == 0.123456789 and first["source"] is None and "effect" not in first
    assert first["adds to log p( Rome)"] == 0.25 and (first["target_rank"], first["target_logit"]) == (7, 0.5)
    assert (second["source"], second["token"], second["effect"]) == (4, " city", -0.1) and attn.disagrees
    assert third["head"] == "L3H1" and third["writes"] == tuple(HOSTILE)
