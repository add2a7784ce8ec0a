"""A two-layer, one-head Llama worked out on paper: what it must give is a formula, not a run.

Its texts are words with a feature on the unit circle, its labels two words; the template is ``S : L S : L S :``.

* Layer 0's head looks one and two positions back, by rotation alone, half each. So at a label and at a separator it
  finds the text before it (the other of the two carries no feature) and writes half of its feature there.
* Layer 1's head compares the feature at the last separator with that at each earlier place, by the metric
  ``s cos(0.1 D) f0 g0 + t cos(0.01 D) f1 g1``, ``D`` the distance (its planes rotate by 1, 0.1, 0.01 and 0.001 a
  position), prefers labels by ``u cos(0.001 D)``, and copies which label stands there into the two dimensions that the
  unembedding reads.

Every embedding has the same norm, features are unit vectors, MLPs write nothing: the norms' scales are known.
"""

import math
import random

import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

from tests import architectures
from tl_neuron_attr.incontext import IclPrompt, icl_prompt

COLON, FOO, BAR = 0, 1, 2
TEXTS = range(10, 34)
S, T, U, COPY, UNEMBED = 30.0, 20.0, 13.0, 2.0, 3.0
"""The metric's weights, the preference for labels, what a unit of label is written as, the unembedding's length."""

D_MODEL, D_HEAD, SQUARE = 12, 8, 6.0
CONST, FEATURE, MOVED, LABEL, OUT, FILL = 0, slice(1, 3), slice(3, 5), slice(5, 7), slice(7, 9), 9
SHARP = 5_000.0
EPS = 1e-12
SEPARATOR = " w0 "


def feature(text: int) -> tuple[float, float]:
    """The unit vector of a text: even ones lie near the first axis, odd ones near the second."""
    angle = 0.12 * (text - 10) * (1 if text % 2 else -1) / 2 + (math.pi / 2 if text % 2 else 0)
    return math.cos(angle), math.sin(angle)


def embedding(token: int) -> list[float]:
    """A token's embedding; the fill makes all of one norm."""
    x = [0.0] * D_MODEL
    x[CONST] = 1.0
    if token in TEXTS:
        x[FEATURE] = feature(token)
    if token in (FOO, BAR):
        x[LABEL.start + token - FOO] = 1.0
    x[FILL] = math.sqrt(SQUARE - sum(v * v for v in x))
    return x


def build() -> TransformerBridge:
    config = hf.LlamaConfig(
        vocab_size=architectures.VOCAB, hidden_size=D_MODEL, intermediate_size=4, num_hidden_layers=2,
        num_attention_heads=1, num_key_value_heads=1, head_dim=D_HEAD, rms_norm_eps=EPS, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, tie_word_embeddings=False, bos_token_id=93,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.tensor([embedding(t) for t in range(architectures.VOCAB)]))
        back, reader = (layer.self_attn for layer in model.model.layers)
        turn = 0.1 * 1.5  # the query turned forwards by one and a half positions, in the plane of dimensions 1 and 5
        back.q_proj.weight[1, CONST], back.q_proj.weight[5, CONST] = SHARP * math.cos(turn), -SHARP * math.sin(turn)
        back.k_proj.weight[1, CONST] = 1.0
        reader.q_proj.weight[3, CONST] = U
        reader.k_proj.weight[3, LABEL] = 1.0
        for i in range(2):
            back.v_proj.weight[i, FEATURE.start + i] = 1.0
            back.o_proj.weight[MOVED.start + i, i] = 1.0
            reader.q_proj.weight[i + 1, MOVED.start + i] = (S, T)[i]
            reader.k_proj.weight[i + 1, MOVED.start + i] = 1.0
            reader.v_proj.weight[i, LABEL.start + i] = 1.0
            reader.o_proj.weight[OUT.start + i, i] = COPY
            model.lm_head.weight[FOO + i, OUT.start + i] = UNEMBED
    model.config.architectures = ["LlamaForCausalLM"]
    return TransformerBridge.boot_transformers(
        "handmade", hf_model=model, tokenizer=architectures.tokenizer(), device="cpu"
    )


SCALE_0 = math.sqrt(SQUARE / D_MODEL + EPS)
"""What layer 0's norm divides by, everywhere."""

MOVED_BY = 0.5 / SCALE_0
"""The length of the feature at a label or separator."""

SCALE_1 = math.sqrt((SQUARE + MOVED_BY**2) / D_MODEL + EPS)
"""What layer 1's norm divides by at labels and separators."""


def score(query: int, text: int, back: int, *, label: bool, rotated: bool = True) -> float:
    """The reader's score of a place with a text's feature, so many positions back from the last one."""
    (f0, f1), (g0, g1) = feature(query), feature(text)
    turns = (math.cos(0.1 * back), math.cos(0.01 * back), math.cos(0.001 * back)) if rotated else (1.0, 1.0, 1.0)
    similarity = (S * turns[0] * f0 * g0 + T * turns[1] * f1 * g1) * MOVED_BY**2
    return (similarity + U * turns[2] * label) / SCALE_1**2 / math.sqrt(D_HEAD)


def distance(texts: list[int], i: int) -> int:
    """How far back the ``i``-th label stands; the last one stands two positions back, the separator one further."""
    return 3 * (len(texts) - i) - 1


def label_scores(query: int, texts: list[int], *, rotated: bool = True) -> list[float]:
    """The reader's score of each label."""
    return [score(query, t, distance(texts, i), label=True, rotated=rotated) for i, t in enumerate(texts)]


def attention(query: int, texts: list[int], *, rotated: bool = True) -> list[float]:
    """The reader's attention to the labels."""
    scores = label_scores(query, texts, rotated=rotated)
    total = sum(math.exp(s) for s in [*scores, *_others(query, texts, rotated=rotated)])
    return [math.exp(s) / total for s in scores]


def _others(query: int, texts: list[int], *, rotated: bool) -> list[float]:
    """Scores of the positions that are no labels: separators carry the feature too, texts and BOS score 0."""
    backs = [distance(texts, i) + 1 for i in range(len(texts))]
    separators = [score(query, t, b, label=False, rotated=rotated) for t, b in zip(texts, backs, strict=True)]
    return [*separators, score(query, query, 0, label=False, rotated=rotated), *[0.0] * (len(texts) + 2)]


def out(query: int, texts: list[int], labels: list[int], *, rotated: bool = True) -> tuple[float, float]:
    """What the reader writes into the two label dimensions at the last position."""
    weights = attention(query, texts, rotated=rotated)
    written = [sum(w for w, label in zip(weights, labels, strict=True) if label == i) for i in range(2)]
    return COPY / SCALE_1 * written[0], COPY / SCALE_1 * written[1]


def prompts(model: TransformerBridge, n: int, *, seed: int = 0) -> list[IclPrompt]:
    """Two texts near the first axis are foo, two near the second bar, in random order; so is the query."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        even, odd = (rng.sample([t for t in TEXTS if t % 2 == side], 3) for side in (0, 1))
        shown = rng.sample([*even[:2], *odd[:2]], 4)
        pairs = [(f"w{text}", f"w{FOO + text % 2}") for text in shown]
        query = (even, odd)[i % 2][2]
        labels = (f"w{FOO}", f"w{BAR}")
        found.append(icl_prompt(model, pairs, f"w{query}", labels[i % 2], labels=labels, separator=SEPARATOR))
    return found


def parts(prompt: IclPrompt) -> tuple[int, list[int], list[int]]:
    """Query, texts and labels of a prompt as numbers."""
    return int(prompt.query[1:]), [int(text[1:]) for text, _ in prompt.demonstrations], list(prompt.sequence)


def label_logits(prompt: IclPrompt, *, rotated: bool = True) -> tuple[float, float]:
    """The logits of foo and bar after a prompt; those of all other tokens are 0."""
    written = out(*parts(prompt), rotated=rotated)
    return UNEMBED * written[0] / final_scale(written), UNEMBED * written[1] / final_scale(written)


def final_scale(written: tuple[float, float]) -> float:
    """What the final norm divides by at the last position, where the reader wrote this."""
    return math.sqrt((SQUARE + MOVED_BY**2 + sum(v * v for v in written)) / D_MODEL + EPS)
