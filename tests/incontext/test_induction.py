import random

import pytest
import torch
import transformers as hf
from transformer_lens.head_detector import detect_head, get_induction_head_detection_pattern
from transformer_lens.model_bridge import TransformerBridge

from tests import architectures
from tests.incontext import handmade
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import (
    FunctionVector,
    from_demo,
    function_vector,
    induction,
    prefix_matching,
    vector_effect,
)


@pytest.fixture(scope="module")
def model():
    return demo.load()


@pytest.fixture(scope="module")
def prompts(model):
    return from_demo(model, [p for k in (4, 2) for p in demo.in_context(4, k, seed=k)])


def test_a_head_that_looks_one_place_back_matches_prefixes_half():
    """Layer 0 of the handmade model looks one and two back: on a repeated text never at the token after the prefix."""
    model = handmade.build()
    found = prefix_matching(model, length=12)
    assert found.shape == (2, 1) and float(found[0, 0]) < 1e-6


def test_an_induction_head_scores_one(monkeypatch):
    """A cache whose heads attend, from every repeated word, to the word after its first occurrence."""
    model = architectures.build("llama", dtype=torch.float32)
    run = model.run_with_cache

    def inducing(tokens, **options):
        logits, cache = run(tokens, **options)
        n = (tokens.shape[1] - 1) // 2
        pattern = torch.zeros(tokens.shape[1], tokens.shape[1])
        pattern[:, 0] = 1
        for i in range(n):
            pattern[1 + n + i] = torch.eye(tokens.shape[1])[2 + i]
        for layer in range(architectures.LAYERS):
            cache.cache_dict[f"blocks.{layer}.attn.hook_pattern"] = pattern.expand(architectures.HEADS, -1, -1)
        return logits, cache

    monkeypatch.setattr(model, "run_with_cache", inducing)
    torch.testing.assert_close(prefix_matching(model, length=9), torch.ones(3, 4, dtype=torch.float64))


@torch.no_grad()
def test_scores_are_those_of_transformerlens(model):
    """Its detector on the same words, over what a perfect induction head has there."""
    rng = random.Random(3)
    texts = [" ".join(induction._words(model, rng, 8) * 2) for _ in range(4)]
    perfect = [(get_induction_head_detection_pattern(model.to_tokens(t)).sum(1) > 0).double().mean() for t in texts]
    scores = [
        detect_head(model, text, "induction_head").double() / best for text, best in zip(texts, perfect, strict=True)
    ]
    torch.testing.assert_close(prefix_matching(model, length=8, seed=3), torch.stack(scores).mean(0))


def of_ten_tokens():
    """A model with an embedding for w0 to w9 only; its tokenizer knows more, and puts token 93 first."""
    config = hf.LlamaConfig(
        vocab_size=10, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    raw = hf.LlamaForCausalLM(config).eval()
    raw.config.architectures = ["LlamaForCausalLM"]
    tokenizer = architectures.tokenizer()
    return TransformerBridge.boot_transformers("tiny", hf_model=raw, tokenizer=tokenizer, device="cpu")


def test_a_vocabulary_of_too_few_words_is_refused():
    with pytest.raises(ValueError, match=r"length must be at most 10, the number of words .* vocabulary of 10, got 20"):
        prefix_matching(of_ten_tokens())


def test_a_bos_without_an_embedding_is_refused_and_can_be_left_out():
    model = of_ten_tokens()
    with pytest.raises(
        ValueError, match="the tokenizer puts token 93 before a text, outside the model's vocabulary of"
    ):
        prefix_matching(model, length=10)
    model.cfg.default_prepend_bos = False
    scores = prefix_matching(model, length=10)
    assert scores.shape == (2, 4) and bool(((scores > 0) & (scores < 0.5)).all())


def test_a_sequence_longer_than_the_context_is_refused(model):
    too_long = int(model.cfg.n_ctx) // 2 + 1
    with pytest.raises(ValueError, match=rf"the prompt is {2 * too_long + 1} tokens, the model's context"):
        prefix_matching(model, length=too_long)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "granite", "neox_parallel"])
def test_a_function_vector_is_the_mean_of_what_the_heads_write(name):
    from tests import oracle
    from tests.incontext.test_icl_batches import tiny_prompts

    model = architectures.build(name)
    prompts = tiny_prompts(model)
    heads = [(2, 1), (0, 3), (2, 2)]
    found = function_vector(model, prompts, heads)
    for i, (layer, head) in enumerate(heads):
        writes = []
        for prompt in prompts:
            _, cache = model.run_with_cache(torch.tensor([prompt.tokens]))
            writes.append(oracle.writes(cache, layer, "attn", 0, -1)[head].sum((0, 1)))
        torch.testing.assert_close(found.vectors[i], torch.stack(writes).mean(0), atol=1e-9, rtol=1e-7)


@torch.no_grad()
def test_adding_it_behind_a_layer_adds_it_to_the_stream(model, prompts):
    vector = function_vector(model, prompts, [(3, 2), (3, 4), (1, 0)])
    tokens = torch.tensor([prompts[0].tokens])
    _, plain = model.run_with_cache(tokens)
    with model.hooks(fwd_hooks=vector.hooks(layer=2, scale=0.5)):
        _, moved = model.run_with_cache(tokens)
    change = moved["blocks.2.hook_resid_post"] - plain["blocks.2.hook_resid_post"]
    torch.testing.assert_close(change[0, -1], 0.5 * vector.vectors.sum(0), atol=1e-5, rtol=1e-5)
    assert float(change[0, :-1].abs().max()) == 0
    with model.hooks(fwd_hooks=vector.hooks()):
        _, moved = model.run_with_cache(tokens)
    change = moved["blocks.1.hook_resid_post"] - plain["blocks.1.hook_resid_post"]
    torch.testing.assert_close(change[0, -1], vector.vectors[2], atol=1e-5, rtol=1e-5)


def test_the_effect_is_measured_on_queries_alone(model, prompts):
    nothing = FunctionVector(((3, 2),), torch.zeros(1, 128))
    frame = vector_effect(model, prompts, nothing).frame
    before, after = (
        frame[frame["condition"] == c].drop(columns="condition").reset_index(drop=True)
        for c in ("as it is", "with the vector")
    )
    assert before.equals(after) and len(before) == len(prompts)
    with torch.no_grad():
        for row in before.to_dict("records"):
            prompt = prompts[row["prompt"]]
            log_p = model(f"{prompt.query} :")[0, -1].log_softmax(-1)
            assert row["labels"] == pytest.approx(float(log_p[list(prompt.label_ids)].exp().sum()), rel=1e-4)
            odds = log_p[prompt.label_ids[prompt.gold]] - log_p[prompt.label_ids[1 - prompt.gold]]
            assert row["log_odds"] == pytest.approx(float(odds), abs=1e-4)


def test_on_the_bundled_model_the_heads_mean_output_makes_it_say_labels(model, prompts):
    effect = vector_effect(model, prompts, function_vector(model, prompts, [(3, h) for h in range(8)]))
    before, after = (
        effect.frame[effect.frame["condition"] == c]["labels"].mean() for c in ("as it is", "with the vector")
    )
    assert after > before and "with the vector" in str(effect)


def test_heads_that_are_not_there_are_refused(model, prompts):
    with pytest.raises(ValueError, match="heads is empty"):
        function_vector(model, prompts, [])
    with pytest.raises(IndexError, match=r"head of \(3, 8\) must lie between 0 and 7, got 8"):
        function_vector(model, prompts, [(3, 8)])
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        prefix_matching(model, length=1)
    bare = architectures.build("llama")
    bare.tokenizer = None
    with pytest.raises(ValueError, match="the model has no tokenizer: prefix matching is measured on words"):
        prefix_matching(bare)
