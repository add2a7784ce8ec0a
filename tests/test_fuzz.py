"""Random models, runs and arguments: the oracle's number or a short refusal, never anything else.

A right argument of an untouched run must be answered, a wrong one refused. Where a hook edits activations both are
right, but what is answered must be what the float64 loop gives on the very same cache.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tl_neuron_attr as tna
from tests import fuzzing, oracle
from tests.architectures import HEADS, LAYERS
from tests.fuzzing import FUZZ, Argument, Refused, Run, answer
from tl_neuron_attr.model.intervene import ablate, edit
from tl_neuron_attr.numerics.sublayer import SITES

pytestmark = pytest.mark.slow


def scored_or_refused(data, run, expect_answer, function, cache, target, **options):
    """The answer, or None where it was refused and may be; ``scored()`` in between must change nothing."""
    scoring = {name: options[name] for name in ("pos", "contrast") if name in options}
    own = {name: value for name, value in options.items() if name not in scoring}
    in_between = data.draw(st.booleans(), label="through scored()")
    try:
        if in_between:
            q = answer(tna.scored, cache, target, **scoring, max_bytes=data.draw(fuzzing.memory()))
            found = answer(function, q, **own)
        else:
            found = answer(function, cache, target, **options)
    except Refused as refusal:
        assert not expect_answer or run.hook is not None, f"refused without need: {refusal}"
        return None
    assert expect_answer, "wrong input was answered"
    return found


def drawn(data, *, hooked=True):
    """A run, its cache, and target, position and contrast with what they mean."""
    run = data.draw(fuzzing.runs(hooked=hooked), label="run")
    target = data.draw(fuzzing.targets(run.batch), label="target")
    pos = data.draw(fuzzing.positions(run), label="pos")
    contrast = data.draw(st.just(Argument(None, ())) | fuzzing.targets(run.batch), label="contrast")
    options = {"pos": pos.given} | ({} if contrast.given is None else {"contrast": contrast.given})
    right = all(argument.means is not None for argument in (target, pos, contrast))
    cache = run.cache()
    if cache is None:
        return None
    return run, cache, target, pos, contrast, options, right


def each_contrast(scores, contrast):
    """``scores(targets)``, or their difference to those of the contrast: log p(target) - log p(contrast)."""
    return lambda targets: scores(targets) - (scores(contrast) if contrast else 0)


@torch.no_grad()
def sublayer_scores(run, cache, pos, targets, unit):
    """The oracle's ``[batch, layer, ...]`` of whole sublayers, heads, or heads by source."""
    found = []
    for row in range(run.batch):
        of_row = []
        for layer in range(LAYERS):
            site = "mlp" if unit == "mlp" else "attn"
            if unit in SITES:
                vectors = oracle.wrote(cache, f"blocks.{layer}.hook_{unit}_out")[row, pos[row]].double()
            else:
                vectors = oracle.writes(cache, layer, "attn", row, pos[row]).sum(2)
                vectors = vectors.sum(1) if unit == "heads" else vectors
            of_row.append(oracle.increase(cache, layer, site, row, pos[row], vectors, targets[row]))
        found.append(oracle.in_one(of_row))
    return torch.stack(found)


UNITS = {"layers": tna.attribute_layers, "heads": tna.attribute_heads, "sources": tna.attribute_head_positions}


@FUZZ
@given(st.data())
def test_layers_heads_and_sources(data):
    case = drawn(data)
    if case is None:
        return
    run, cache, target, pos, contrast, options, right = case
    unit = data.draw(st.sampled_from(list(UNITS)), label="unit")
    options["max_bytes"] = data.draw(fuzzing.memory(), label="max_bytes")
    got = scored_or_refused(data, run, right, UNITS[unit], run.given(cache), target.given, **options)
    if got is None:
        return
    for each in SITES if unit == "layers" else (unit,):
        scores = each_contrast(lambda t, each=each: sublayer_scores(run, cache, pos.means, t, each), contrast.means)
        found = getattr(got, each) if unit == "layers" else got
        run.close(run.batched_again(found), scores(target.means))


@FUZZ
@given(st.data())
def test_every_neuron(data):
    case = drawn(data)
    if case is None:
        return
    run, cache, target, pos, contrast, options, right = case
    site = data.draw(st.sampled_from(SITES), label="site")
    layers = data.draw(fuzzing.layers(), label="layers")
    options |= {"layers": layers.given, "max_bytes": data.draw(fuzzing.memory(), label="max_bytes")}
    right = right and layers.means is not None
    function = tna.attribute_mlp_neurons if site == "mlp" else tna.attribute_attn_neurons
    got = scored_or_refused(data, run, right, function, run.given(cache), target.given, **options)
    if got is None:
        return
    scores = each_contrast(lambda t: oracle.neuron_scores(cache, site, pos.means, t), contrast.means)
    run.close(run.batched_again(got), scores(target.means)[:, layers.means])


def available(run, sites):
    """How many neurons a search may return: an attention neuron counts once for each source."""
    blocks = run.model.blocks
    width = {
        "mlp": sum(len(oracle.rows_written_with(block)) for block in blocks),
        "attn": sum(block.attn.W_O[:, :, 0].numel() for block in blocks if hasattr(block, "attn")) * run.length,
    }
    return sum(width[site] for site in sites)


def columns(value, row, names=("site", "layer", "head", "source", "index")):
    return list(zip(*(getattr(value, name)[row].tolist() for name in names), strict=True))


@FUZZ
@given(st.data())
def test_value_neurons_are_the_sorted_scores(data):
    case = drawn(data)
    if case is None:
        return
    run, cache, target, pos, contrast, options, right = case
    sites = data.draw(fuzzing.sites(), label="sites")
    k = data.draw(fuzzing.counts(available(run, sites.means or ("attn",))), label="k")
    largest = data.draw(st.booleans(), label="largest")
    options |= {"k": k.given, "sites": sites.given, "largest": largest, "text": data.draw(st.booleans())}
    right = right and sites.means is not None and k.means is not None
    options["max_bytes"] = data.draw(fuzzing.memory(), label="max_bytes")
    value = scored_or_refused(data, run, right, tna.value_neurons, run.given(cache), target.given, **options)
    if value is None:
        return
    assert value.batched == run.batched
    value = value if value.batched else value.unsqueeze()

    def of_site(site):
        scores = lambda t: oracle.neuron_scores(cache, site, pos.means, t, fill=float("nan"))  # noqa: E731
        return each_contrast(scores, contrast.means)(target.means)

    scores = {site: of_site(site) for site in sites.means}
    everything = torch.cat([each.flatten(1) for each in scores.values()], 1)
    there = everything[~everything.isnan()].reshape(run.batch, -1)
    ranked = there.sort(1, descending=largest).values
    run.close(value.score, ranked[:, : k.means])
    for row in range(run.batch):
        found = columns(value, row)
        assert len(set(found)) == k.means, "a neuron was returned twice"
        own = [
            scores["mlp"][row, layer, i] if SITES[site] == "mlp" else scores["attn"][row, layer, head, source, i]
            for site, layer, head, source, i in found
        ]
        run.close(value.score[row], torch.stack(own))


class QueryOracle:
    """Query scores of one prompt by a loop over value neurons, their subkeys and the components that feed them."""

    def __init__(self, cache, row, pos, neurons):
        self.layers, self.neurons, self.cancelling, self.subkeys = {}, {}, False, 0
        self._cache, self._row, self._written = cache, row, {}
        for (site, layer, head, source, index), score in neurons:
            read = pos if SITES[site] == "mlp" else source
            keys = oracle.keys(cache, layer, SITES[site], index, head)
            for key in keys:
                self._add(SITES[site], layer, read, key, score / len(keys))

    def _seen(self, layer, site, read, vectors, key):
        return oracle.norm_read(self._cache, layer, site, self._row, read, vectors) @ key

    def _add(self, site, layer, read, key, score):
        hooks = oracle.fed_by(self._cache, layer, site)
        inner = {
            hook: self._seen(layer, site, read, oracle.wrote(self._cache, hook)[self._row, read].double(), key)
            for hook in hooks
        }
        total = sum(inner.values())
        # Near cancellation the two ways round apart, and where the package leaves a neuron out is its own choice.
        self.cancelling |= bool(abs(total) <= 1e-2 * sum(abs(part) for part in inner.values()))
        for hook, part in inner.items():
            self.layers[hook] = self.layers.get(hook, 0) + score * part / total
        for below in range(LAYERS):
            for own in SITES if site == "mlp" else ("mlp",):
                if f"blocks.{below}.hook_{own}_out" in hooks:
                    at = (below, own, read)
                    if at not in self._written:
                        self._written[at] = oracle.writes(self._cache, below, own, self._row, read)
                    shares = self._seen(layer, site, read, self._written[at], key) * score / total
                    self.neurons[below, own] = self.neurons.get((below, own), 0) + shares

    def neuron(self, site, layer, head, source, index):
        scores = self.neurons.get((layer, SITES[site]))
        if scores is None:
            return torch.zeros((), dtype=torch.float64)
        return scores[index] if SITES[site] == "mlp" else scores[head, source, index]


@FUZZ
@given(st.data())
@torch.no_grad()
def test_query_layers_and_neurons(data):
    run = data.draw(fuzzing.runs(dtypes=("float64",)), label="run")
    pos = data.draw(fuzzing.positions(run), label="pos")
    k, sites = data.draw(fuzzing.counts(200), label="k"), data.draw(fuzzing.sites(), label="sites")
    if k.given == 201 or k.given == 10**12:
        k = Argument(k.given, k.given)  # fewer are returned where fewer lie below
    if pos.means is None:
        return
    cache = run.cache()
    if cache is None:
        return
    try:
        value = answer(tna.value_neurons, run.given(cache), 5, data.draw(st.integers(1, 6)), pos=pos.given)
    except Refused:
        assert run.hook is not None
        return
    batch = value if run.batched else value.unsqueeze()
    loops = [
        QueryOracle(cache, row, pos.means[row], list(zip(columns(batch, row), batch.score[row].tolist(), strict=True)))
        for row in range(run.batch)
    ]
    try:
        layers = answer(tna.query_layers, run.given(cache), value, pos=pos.given)
    except Refused as refusal:
        assert run.hook is not None, refusal
        return
    right = sites.means is not None and k.means is not None
    try:
        query = answer(
            tna.query_neurons, run.given(cache), value, k.given, pos=pos.given, sites=sites.given,
            max_bytes=data.draw(fuzzing.memory(), label="max_bytes"),
        )  # fmt: skip
    except Refused as refusal:
        assert not right or run.hook is not None, refusal
        query = None
    else:
        assert right, "wrong input was answered"
        query = query if run.batched else query.unsqueeze()
    attn, mlp, embed = (run.batched_again(getattr(layers, name)) for name in ("attn", "mlp", "embed"))
    for row, loop in enumerate(loops):
        if loop.cancelling:
            continue
        run.close(embed[row] + attn[row].sum() + mlp[row].sum(), batch.score[row].sum(), slack=1e3)
        run.close(embed[row], loop.layers["blocks.0.hook_resid_pre"], slack=1e3)
        for layer in range(LAYERS):
            for site, found in (("attn", attn), ("mlp", mlp)):
                expected = loop.layers.get(f"blocks.{layer}.hook_{site}_out", 0.0)
                run.close(found[row, layer], torch.as_tensor(expected, dtype=torch.float64), slack=1e3)
        if query is not None:
            check_query_neurons(run, query, row, loop, sites.means)


def check_query_neurons(run, query, row, loop, sites):
    found = columns(query, row)
    assert len(set(found)) == len(found)
    if found:
        run.close(query.score[row], torch.stack([loop.neuron(*each) for each in found]), slack=1e3)
    everything = [scores.flatten() for (_, site), scores in loop.neurons.items() if site in sites]
    ranked = torch.cat(everything).sort(descending=True).values if everything else torch.zeros(0)
    n = min(len(found), len(ranked))  # what feeds no value neuron of this prompt has a score of zero
    positive = ranked[:n].clamp_min(0)
    run.close(query.score[row, :n].clamp_min(0), positive, slack=1e3)


@st.composite
def components(draw, run):
    """Components in every spelling, with the rows of ``W_out`` and ``W_O`` they are; None where to be refused."""
    found, means = [], set()
    blocks = run.model.blocks
    d_head = blocks[1].attn.W_O.shape[1]
    for _ in range(draw(st.integers(0, 4))):
        layer, head = draw(st.integers(-1, LAYERS)), draw(st.integers(-1, HEADS))
        d_mlp = len(oracle.rows_written_with(blocks[min(max(layer, 0), LAYERS - 1)]))
        dim, index = draw(st.integers(-1, d_head)), draw(st.integers(-1, d_mlp))
        layer, head, dim, index = (
            x if draw(st.integers(0, 9)) == 0 else min(max(x, 0), most - 1)
            for x, most in ((layer, LAYERS), (head, HEADS), (dim, d_head), (index, d_mlp))
        )
        heads = HEADS if hasattr(blocks[min(max(layer, 0), LAYERS - 1)], "attn") else 0
        kind = draw(
            st.sampled_from(["head", "mlp", "attn", "odd"] if draw(st.integers(0, 5)) == 0 else ["head", "mlp", "attn"])
        )
        spelled = draw(st.booleans())
        if kind == "odd":
            return draw(
                st.sampled_from(
                    [
                        [("mlp", 0)],
                        ["L1"],
                        [(0,)],
                        ["L0H0D0@"],
                        [(0, True)],
                        [None],
                        [(0.0, 1)],
                        "L0H1",
                        [[(0, 0)], (0, 1)],
                        3,
                    ]
                ).map(lambda wrong: Argument(wrong, None))
            )
        if kind == "head":
            entry, label, inside = (layer, head), f"L{layer}H{head}", 0 <= head < heads
            rows = {("attn", layer, head, d) for d in range(d_head)}
        elif kind == "mlp":
            entry, label, inside = (
                ("mlp", layer, index),
                f"L{layer}N{index}",
                0 <= index < d_mlp,
            )
            rows = {("mlp", layer, index)}
        else:
            entry, label = ("attn", layer, head, dim), f"L{layer}H{head}D{dim}"
            inside, rows = 0 <= head < heads and 0 <= dim < d_head, {("attn", layer, head, dim)}
        if means is not None:
            means = means | rows if inside and 0 <= layer < LAYERS and entry not in [e for e, _ in found] else None
        found.append((entry, label if spelled else entry))
    return Argument([shown for _, shown in found], means)


@torch.no_grad()
def logits_with(run, rows, scale):
    """The model's logits with rows of its weights multiplied by hand, and put back."""
    before = []
    for site, layer, *at in sorted(rows):
        block = run.model.blocks[layer]
        W, at = (oracle.rows_written_with(block)[at[0]], [...]) if site == "mlp" else (block.attn.W_O, at)
        before.append((W, tuple(at), W[tuple(at)].clone()))
        W[tuple(at)] = W[tuple(at)] * scale
    logits = run.model(run.tokens())
    for W, at, row in reversed(before):
        W[at] = row
    return logits


@FUZZ
@given(st.data())
@torch.no_grad()
def test_ablate_and_edit(data):
    run = data.draw(fuzzing.runs(hooked=False, padded=False, dtypes=("float64", "float32")), label="run")
    named = data.draw(components(run), label="components")
    scale = data.draw(st.sampled_from([0.0, 0.5, -1.0, 1.0, 3.0, float("nan"), float("inf")]), label="scale")
    right = named.means is not None and abs(scale) < 10
    plain = run.model(run.tokens())
    expected = logits_with(run, named.means, scale) if right else None
    for change in (ablate, edit):
        try:
            with answer(change, run.model, named.given, scale=scale):
                changed = run.model(run.tokens())
        except Refused as refusal:
            assert not right, refusal
        else:
            assert right, f"{change.__name__} took wrong input"
            run.close(changed, expected)
        assert torch.equal(run.model(run.tokens()), plain), f"{change.__name__} left something behind"


@torch.no_grad()
def log_prob_with_head_zeroed(run, row, pos, target, head):
    """One whole run of the prompt alone, a hook setting the head's output to zero."""

    def zero(z, hook):
        z = z.clone()
        z[:, :, head[1]] = 0
        return z

    alone = torch.tensor([[93, *run.prompts[row]]])
    hooks = [] if head is None else [(f"blocks.{head[0]}.attn.hook_z", zero)]
    logits = run.model.run_with_hooks(alone, fwd_hooks=hooks)[0, pos - run.real(row)[0]]
    return logits.double().log_softmax(-1)[target]


@FUZZ
@given(st.data())
def test_head_effects(data):
    run = data.draw(fuzzing.runs(hooked=False, dtypes=("float64", "float32")), label="run")
    target = data.draw(fuzzing.targets(run.batch), label="target")
    pos = data.draw(fuzzing.positions(run), label="pos")
    layers = [layer for layer, block in enumerate(run.model.blocks) if hasattr(block, "attn")]
    pair = st.tuples(st.sampled_from(layers), st.integers(0, HEADS - 1))
    some = st.lists(pair, min_size=1, max_size=3, unique=True).map(lambda x: Argument(x, x))
    wrong = st.sampled_from([[], [(LAYERS, 0)], [(0, -1)], [(0, 0), (0, 0)], [("mlp", 0, 1)], ["L0N1"], 3, [(0, True)]])
    heads = data.draw(some | wrong.map(lambda x: Argument(x, None)), label="heads")
    mask = torch.zeros(run.batch, run.length, dtype=torch.long)
    for row in range(run.batch):
        mask[row, run.real(row)] = 1
    options = {"pos": pos.given, "heads": heads.given, "max_bytes": data.draw(fuzzing.memory(), label="max_bytes")}
    right = None not in (target.means, pos.means, heads.means)
    try:
        found = answer(
            tna.head_effects, run.model, run.tokens(), target.given, attention_mask=mask, progress=False, **options
        )
    except Refused as refusal:
        assert not right, refusal
        return
    assert right, "wrong input was answered"
    loose = (
        1e5 if run.compat or run.name in fuzzing.ROUNDED else 100
    )  # tiny models in float32 rounding, whole runs apart
    for row in range(run.batch):
        for head in heads.means:
            expected = log_prob_with_head_zeroed(run, row, pos.means[row], target.means[row], head)
            run.close(found.log_prob[row][head], expected, slack=loose if run.dtype == "float64" else 1)


def test_a_refusal_of_a_library_is_no_refusal():
    with pytest.raises(AssertionError, match="raised IndexError"):
        answer(lambda: torch.zeros(3)[5])
    with pytest.raises(KeyError):
        answer(lambda: {}["missing"])
    assert isinstance(Run("llama", "float64", False, ((1,),)).batch, int)
