import tl_neuron_attr as tna
from tl_neuron_attr import demo
from tl_neuron_attr.vis.one_token import TOKEN_STEPS, OneToken, Shown, token_tab

PROMPT = "Tim Duncan plays the sport of"


def test_a_position_within_a_prompt_shows_what_is_before_it_and_every_step_is_told():
    _, cache = demo.load().run_with_cache(PROMPT)
    steps = []
    shown = Shown(3, 2, 2, 0, True, "m", done=lambda: steps.append(1))
    found = OneToken.of(tna.scored(cache, pos=3), shown)
    assert len(found.tokens) == 4 and all(len(scores) == 4 for scores in found.sources.values())
    part, page = (token_tab(found, shown, alone=alone) for alone in (False, True))
    assert "<h1" not in part and "<h1" in page and len(steps) == TOKEN_STEPS + 1
    assert found.verified is not None and found.flow.graph.graph["pos"] == 3
