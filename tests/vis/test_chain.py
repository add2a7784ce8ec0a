"""The chain's picture and page: every stage there, numbers those of the chain, opened in a real browser."""

import re
from dataclasses import replace

import pytest
import torch

from tests import architectures
from tests.vis.browser import needs_browser, opened
from tl_neuron_attr import cna, demo, vis

HOSTILE = "</svg><script>alert(1)</script>"


@pytest.fixture(scope="module")
def chain():
    return cna.logic_chain(demo.load(), "6 * 7 =")


def lines(body):
    found = re.findall(r'data-from="(\S+)" data-to="(\S+)"[^>]*><title>\S+ → \S+: (\S+) ([^<]*)</title>', body)
    return {(a, b): (float(weight), unit) for a, b, weight, unit in found}


def test_lines_are_the_numbers_of_the_stages(chain):
    found = lines(vis.chain_flow(chain).body)
    head, *further = chain.feature_transferring.hops
    deep = chain.feature_predicting.neurons
    for name, change in list(zip(deep.labels, deep.score.tolist(), strict=True))[:5]:
        for edge in ((head.name, name), (name, "answer")):
            assert found[edge] == (pytest.approx(change, abs=1e-4), "nats that go with the head")
    row = chain.feature_enhancing.to_frame().iloc[0]
    hop = next(h for h in chain.feature_transferring.hops if h.name == row["hop"])
    sink = hop.name if hop.head is not None else f"{hop.name}@{hop.pos}"
    for edge in ((f"@{row['pos']}", row["neuron"]), (row["neuron"], sink)):
        assert found[edge] == (pytest.approx(row["sum"], abs=1e-4), "of the pre-activation")
    for below in further:
        part = float(head.total[1 + 2 * below.layer, below.pos])
        assert found[f"{below.name}@{below.pos}", head.name][0] == pytest.approx(part, abs=1e-4)
    edges = chain.prediction_enhancing.to_frame()
    among = [r for r in edges.to_dict("records") if (r["from"], r["to"]) in found]
    assert among and all(found[r["from"], r["to"]][0] == pytest.approx(r["sum"], abs=1e-4) for r in among)


def test_the_root_is_drawn_though_it_changed_little(chain):
    root = chain.prediction_enhancing.root_neuron.labels[0]
    assert f'data-name="{root}"' in vis.chain_flow(chain).body and f"{root} (root)" in vis.chain_flow(chain).body
    last = cna.logic_chain(demo.load(), "3 + 5 =")
    assert last.prediction_enhancing.root > 14, "another prompt is needed: this root is among the best"
    assert f'data-name="{last.prediction_enhancing.root_neuron.labels[0]}"' in vis.chain_flow(last).body


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma2", "olmo2"])
def test_pages_of_other_models(name):
    tokens = architectures.prompts(1)[0]
    chain = cna.logic_chain(architectures.build(name), tokens, 5, head=(1, 2), k=12, shallow=4)
    page = vis.logic_chain(chain, name=name).page()
    assert "From the tokens to" in page and "The head</h2>" in page, "with one head asked for there is no heat map"


def test_many_deep_layers_share_columns(chain):
    deep = replace(chain.feature_predicting.neurons.top(12), layer=torch.arange(12), text=None)
    inner = {name: part[:12, :12] for name, part in chain.prediction_enhancing.inner.items()}
    predicting, enhancing = (
        replace(chain.feature_predicting, neurons=deep),
        replace(chain.prediction_enhancing, neurons=deep, inner=inner),
    )
    body = vis.chain_flow(replace(chain, feature_predicting=predicting, prediction_enhancing=enhancing)).body
    assert re.findall(r">(deep, [^<]*)<", body) == ["deep, 0 to 3", "deep, 4 to 7", "deep, 8 to 11"]


def test_several_hops_stand_in_one_column():
    chain = cna.logic_chain(demo.load(), "6 * 7 =", head=(2, 6), hops=3)
    head, *further = chain.feature_transferring.hops
    assert len(further) == 2, "another prompt is needed: this one has no third hop"
    body = vis.chain_flow(chain).body
    at = dict(re.findall(r'data-name="([^"]+)" transform="translate\((\S+) ', body))
    hops = [at[f"{hop.name}@{hop.pos}"] for hop in further]
    assert len(set(hops)) == 1 and float(at[chain.feature_enhancing.names[0]]) < float(hops[0]) < float(at[head.name])
    assert (f"{further[1].name}@{further[1].pos}", f"{further[0].name}@{further[0].pos}") in lines(body)


def test_hostile_tokens_are_text(chain):
    hostile = replace(chain, tokens=(HOSTILE,) * len(chain.tokens), answer=HOSTILE)
    assert "<script>alert" not in vis.logic_chain(hostile, name=HOSTILE).page()


def test_the_heat_map_holds_every_head_that_was_zeroed():
    effects = cna.head_effects(demo.load(), "3 + 5 =", "8", heads=[(3, 6), (1, 1)], progress=False)
    body = vis.head_effects(effects).body
    assert f"L3H6: {float(effects.drop[3, 6]):+.4f} nats" in body
    with pytest.raises(ValueError, match="scores are of 2 prompts"):
        tokens = torch.stack([demo.load().to_tokens(p)[0] for p in ("3 + 5 =", "2 + 2 =")])
        vis.head_effects(cna.head_effects(demo.load(), tokens, "8", heads=[(3, 6)], progress=False))


@needs_browser
def test_a_click_on_a_token_of_an_answer_shows_its_chain(tmp_path):
    chains = cna.logic_chains(demo.load(), "Tim Duncan plays the sport of", " basketball .", k=60)
    with opened(vis.logic_chains(chains).save(tmp_path / "chains.html")) as page:
        assert "best deep neuron" in str(page.run("return document.body.innerText"))
        page.run("document.querySelector('[data-part=\"2\"]').click()")
        page.wait_for("return document.querySelectorAll('.tna-layered[data-ready]').length == 1")
        text = str(page.run("return document.body.innerText"))
        assert chains[1].feature_predicting.neurons.labels[0] in text and page.errors() == [] == page.requests()


@needs_browser
def test_the_page_opens_without_errors_or_requests_and_says_what_it_shows(chain, tmp_path):
    path = vis.logic_chain(chain, name="tna-demo").save(tmp_path / "chain.html")
    shown = "return [...document.querySelectorAll('.edge')].filter(e => e.getAttribute('display') != 'none').length"
    with opened(path) as page:
        assert page.errors() == [] and page.requests() == []
        text = page.run("return document.body.innerText")
        for heading in (
            "The chain",
            "Feature enhancing",
            "Feature transferring",
            "Feature predicting",
            "Prediction enhancing",
        ):
            assert heading in str(text)
        few = page.run(shown)
        page.run("const s = document.querySelector('input'); s.value = 1; s.dispatchEvent(new Event('input'))")
        assert 0 < int(str(few)) < int(str(page.run(shown)))
        one, other = chain.feature_enhancing.names[:2]
        page.run(f"document.querySelector('[data-name=\"{one}\"]').dispatchEvent(new Event('pointerenter'))")
        dim = "return document.querySelector('[data-name=\"{}\"]').classList.contains('dim')"
        assert page.run(dim.format(other)) and not page.run(dim.format(one)) and not page.run(dim.format("answer"))
