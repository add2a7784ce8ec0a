"""What a head carried, against norms, patterns and weights applied by hand, component by component."""

import pytest
import torch

import tl_neuron_attr as tna
from tests import architectures, oracle
from tl_neuron_attr import cna

TOKENS = architectures.prompts(1)
HEAD, POS = (1, 2), 4


@torch.no_grad()
def moved(cache, layer, heads, pos, source, vector):
    """What heads wrote at ``pos`` of a component of the stream at ``source``."""
    attn = cache.model.blocks[layer].attn
    read = oracle.norm_read(cache, layer, "attn", 0, source, vector)
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, pos, source].double()
    per_kv = len(attn.W_O) // len(attn.W_V)
    raw = sum(pattern[h] * (read @ attn.W_V[h // per_kv].double() @ attn.W_O[h].double()) for h in heads)
    return oracle.through_post_norm(cache, layer, "attn", 0, pos, raw)


@torch.no_grad()
@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("name", architectures.DENSE)
def test_every_part_is_what_the_heads_moved_along_the_key(name, compat):
    model = architectures.build(name, compat=compat)
    _, cache = model.run_with_cache(TOKENS)
    first, *further = cna.feature_transferring(cache, neuron(2, 7), HEAD, pos=POS).hops
    keys = oracle.keys(cache, 2, "mlp", 7)
    assert len(keys) == len(first.contributions)
    for part, key in zip(first.contributions.values(), keys, strict=True):
        for c, hook in enumerate(oracle.fed_by(cache, 1, "attn")):
            for source in range(POS + 1):
                wrote = moved(cache, 1, [2], POS, source, cache[hook][0, source].double())
                expected = float(oracle.norm_read(cache, 2, "mlp", 0, POS, wrote) @ key)
                assert float(part[c, source]) == pytest.approx(expected, abs=1e-5 if compat else 1e-9)
    for hop in further:
        assert hop.layer == 0 and list(hop.contributions) == list(first.contributions)
        for part, key in zip(hop.contributions.values(), keys, strict=True):
            for source in range(hop.pos + 1):
                embedding = cache["blocks.0.hook_resid_pre"][0, source].double()
                wrote = moved(cache, 1, [2], POS, hop.pos, moved(cache, 0, range(4), hop.pos, source, embedding))
                expected = float(oracle.norm_read(cache, 2, "mlp", 0, POS, wrote) @ key)
                assert float(part[0, source]) == pytest.approx(expected, abs=1e-5 if compat else 1e-9)


def neuron(layer, index):
    """A neuron nobody scored."""
    none, zero = torch.full((1,), -1), torch.zeros(1)
    return tna.Neurons(
        site=torch.ones(1, dtype=torch.long), layer=torch.tensor([layer]), head=none, source=none,
        index=torch.tensor([index]), coefficient=zero, score=zero,
    )  # fmt: skip


def transferred(name="llama", **options):
    _, cache = architectures.build(name).run_with_cache(TOKENS)
    return cna.feature_transferring(cache, neuron(2, 7), HEAD, **options)


def test_the_second_hop_goes_through_the_attention_that_wrote_most_where_it_wrote_it():
    first, second = transferred().hops
    torch.testing.assert_close(first.total, first.contributions["gate"] + first.contributions["up"])
    direction = 1 if float(first.total.sum()) > 0 else -1
    source = max(range(7), key=lambda s: direction * float(first.total[1, s]))
    assert (second.layer, second.head, second.pos) == (0, None, source) and first.sign == direction
    # without biases, what the attention of layer 0 read is all that it wrote
    assert float(second.total.sum()) == pytest.approx(float(first.total[1, source]), rel=1e-6)


def test_hops_end_where_no_attention_feeds_them():
    assert [hop.layer for hop in transferred(hops=9).hops] == [1, 0]
    assert [hop.name for hop in transferred(hops=1).hops] == ["L1H2"]


def test_a_head_that_was_zeroed_carried_nothing():
    model = architectures.build("gpt2")
    with tna.ablate(model, [HEAD]):
        _, cache = model.run_with_cache(TOKENS)
    found = cna.feature_transferring(cache, neuron(2, 7), HEAD)
    assert len(found.hops) == 1 and not bool(found.hops[0].total.any())


def test_tables_and_frames_name_components_and_tokens():
    found = transferred()
    frame = found.to_frame()
    assert len(frame) == 3 * 7 + 1 * (found.hops[1].pos + 1)
    first = frame[frame["hop"] == "L1H2"]
    assert set(first["component"]) == {"embed", "attn 0", "mlp 0"} and first["sum"].abs().is_monotonic_decreasing
    assert first["token"].tolist()[0].strip() in {f"w{t}" for t in TOKENS[0].tolist()}
    assert "what fed L2N7" in str(found) and "<table>" in found._repr_html_()


def test_bad_input_is_named():
    model = architectures.build("gpt2")
    _, cache = model.run_with_cache(TOKENS)
    with pytest.raises(ValueError, match="root must be one MLP neuron, got"):
        cna.feature_transferring(cache, tna.value_neurons(cache, 5, 4)[0], HEAD)
    with pytest.raises(ValueError, match="root L0N7 does not read what head L1H2 wrote: take a higher one"):
        cna.feature_transferring(cache, neuron(0, 7), HEAD)
    with pytest.raises(ValueError, match="hops must be at least 1, got 0"):
        cna.feature_transferring(cache, neuron(2, 7), HEAD, hops=0)
    with pytest.raises(IndexError, match="must lie between 0 and 3, got 9"):
        cna.feature_transferring(cache, neuron(2, 7), (1, 9))
    _, parallel = architectures.build("gptj").run_with_cache(TOKENS)
    with pytest.raises(ValueError, match="L1N7 does not read what head L1H2 wrote"):
        cna.feature_transferring(parallel, neuron(1, 7), HEAD)
    _, two = model.run_with_cache(architectures.prompts(2))
    with pytest.raises(ValueError, match="cache holds 2 prompts"):
        cna.feature_transferring(two, neuron(2, 7), HEAD)
