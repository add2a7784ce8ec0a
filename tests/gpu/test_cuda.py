"""Scores computed on a GPU are those computed on the CPU, in float32 and bfloat16."""

import pytest
import torch
from transformer_lens import ActivationCache

import tl_neuron_attr as tna
from tests import architectures
from tests.every_score import runs, scores
from tl_neuron_attr import evaluate

TOKENS = architectures.prompts()
NEAR = {"atol": 1e-4, "rtol": 1e-3}
"""The tolerance of scores in float32: 1e-4 nats; what ten neurons cost together may be some nats."""


def models(name, dtype):
    """The same model on the CPU and on the GPU."""
    if name in ("llama", "qwen3_moe"):
        return architectures.build(name, dtype=dtype), architectures.build(name, dtype=dtype).to("cuda")
    try:
        return tuple(tna.load(name, device=device, dtype=dtype) for device in ("cpu", "cuda"))
    except (FileNotFoundError, ImportError) as error:
        return pytest.skip(f"{name} is not installed: {error}")


def prompts_of(model):
    tokens = TOKENS if model.W_U.shape[1] == architectures.VOCAB else TOKENS % 60 + 5
    return tokens.to(model.W_U.device)


def require_near(found, expected):
    assert set(found) == set(expected)
    for key, each in found.items():
        torch.testing.assert_close(each.cpu(), expected[key], **NEAR, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["demo", "llama", "qwen3_moe", "smollm2-135m"])
def test_scores_of_a_cache_are_those_on_the_cpu(name, dtype):
    plain, model = models(name, dtype)
    cache = model.run_with_cache(prompts_of(model))[1]
    found = scores(cache)
    assert {each.device.type for each in found.values()} == {"cuda"}
    same = {key: each.cpu() for key, each in cache.cache_dict.items()}
    require_near(found, scores(ActivationCache(same, plain)))


@pytest.mark.parametrize("name", ["demo", "llama", "smollm2-135m"])
def test_runs_give_what_they_do_on_the_cpu(name):
    plain, model = models(name, torch.float32)
    found, expected = ((each, prompts_of(each)) for each in (model, plain))
    require_near(runs(*found), runs(*expected))
    heads = [{"heads": tna.attribute_heads(each.run_with_cache(tokens)[1], 5)} for each, tokens in (found, expected)]
    require_near(*heads)


def test_ablation_of_a_mixture_works_on_the_gpu():
    plain, model = models("qwen3_moe", torch.float32)
    with tna.ablate(plain, ["L1E2N3", "L2H1"]), tna.ablate(model, ["L1E2N3", "L2H1"]):
        require_near({"logits": model(TOKENS.to("cuda"))}, {"logits": plain(TOKENS)})


def test_text_answers_and_measures_work_on_the_gpu(tmp_path):
    model, prompt = tna.demo.load().to("cuda"), "Tim Duncan plays the sport of"
    assert tna.value_neurons(tna.answer(model, prompt, " basketball ."), k=10).score[0] > 0
    value = tna.value_neurons(model.run_with_cache(model.to_tokens(prompt))[1], " basketball", k=10)
    verified = evaluate.verify(model, prompt, value, " basketball", baseline="mean", progress=False)
    assert verified.joint[10] > 0
    important = evaluate.important_neurons(model, prompt, " basketball", k=5, candidates=20, progress=False)
    assert important.neurons.labels[0] == "L1N287"  # as the docstring's run on a CPU finds
    page = tna.vis.report(model.run_with_cache(prompt)[1], " basketball").save(tmp_path / "page.html")
    assert "basketball" in page.read_text()


def test_a_study_on_the_gpu_keeps_what_one_on_the_cpu_keeps():
    facts = evaluate.facts(["capital"], per_type=2)
    found, expected = (evaluate.knowledge_study(tna.load("demo", device=device), facts, progress=False)
                       for device in ("cuda", "cpu"))  # fmt: skip
    assert found.kept().equals(expected.kept())
