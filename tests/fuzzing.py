"""What the fuzz draws: tiny models, runs of them, and arguments together with what they mean.

Everything drawn is plain data, so that a failing example prints as what reproduces it. An argument is drawn with its
meaning: the value that the function must take it for, or None where it must refuse it.
"""

import os
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests import architectures
from tests.architectures import LAYERS, VOCAB

EXAMPLES = os.environ.get("TNA_FUZZ_EXAMPLES")
"""How many examples a property gets by hand (``make fuzz``), others each time; unset in CI, which repeats its own."""

FUZZ = settings(
    max_examples=int(EXAMPLES or 15),  # about two minutes in all on two busy cores
    derandomize=EXAMPLES is None,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # examples are small; making them smaller takes minutes
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

NAMES = [*architectures.BUILDERS, *(architectures.EXPERTS | architectures.HYBRIDS if EXAMPLES else ())]
"""Architectures drawn; the oracle takes seconds for a mixture, of which CI has one."""

ROUNDED = {*architectures.EXPERTS, *architectures.HYBRIDS}
"""In float32 whatever their dtype: routers and rotations; the oracle takes differences of whole mixtures."""

REFUSALS = (ValueError, IndexError, TypeError)
_PACKAGE = str(Path(__file__).parents[1] / "tl_neuron_attr")
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
_CLOSE = {"float64": (1e-9, 1e-9), "float32": (1e-4, 1e-5), "bfloat16": (1e-4, 1e-5)}


class Refused(Exception):
    """The package refused its input, as it should where the input is wrong."""


def answer(function: Any, *args: Any, **options: Any) -> Any:
    """Return what the function returns; anything but a short refusal of the package's own is a failure.

    Raises:
        Refused: If the package refused: a ValueError, IndexError or TypeError of three lines at most, raised by the
            package and not by a library below it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*args, **options)
        except REFUSALS as error:
            raised_at = traceback.extract_tb(error.__traceback__)[-1].filename
            assert raised_at.startswith(_PACKAGE), f"{raised_at} raised {error!r}"
            assert str(error).count("\n") <= 2 and len(str(error)) < 900, str(error)
            raise Refused(str(error)) from error


@cache
def model(name: str, dtype: str, compat: bool) -> TransformerBridge:
    return architectures.build(name, dtype=_DTYPES[dtype], compat=compat)


@dataclass(frozen=True)
class Hook:
    """A vector added at a hook of the model while it runs."""

    name: str
    size: float
    seed: int

    def __call__(self, activation: Any, hook: Any) -> Any:
        if not isinstance(activation, torch.Tensor) or not activation.is_floating_point() or activation.ndim == 0:
            return activation
        added = torch.randn(activation.shape[-1], generator=torch.Generator().manual_seed(self.seed))
        return activation + (self.size * added).to(activation)


@dataclass(frozen=True)
class Run:
    """A model and prompts; padded where they differ in length, and with a hook active or none."""

    name: str
    dtype: str
    compat: bool
    prompts: tuple[tuple[int, ...], ...]
    side: str = "right"
    hook: Hook | None = None
    batched: bool = True

    @property
    def model(self) -> TransformerBridge:
        return model(self.name, self.dtype, self.compat)

    @property
    def batch(self) -> int:
        return len(self.prompts)

    @property
    def length(self) -> int:
        return max(len(prompt) for prompt in self.prompts) + 1

    def real(self, row: int) -> range:
        """The positions of a prompt that are no padding; its BOS is the first."""
        size = len(self.prompts[row]) + 1
        return range(self.length - size, self.length) if self.side == "left" else range(size)

    def tokens(self) -> torch.Tensor:
        tokens = torch.full((self.batch, self.length), 95)
        for row, prompt in enumerate(self.prompts):
            tokens[row, self.real(row)] = torch.tensor([93, *prompt])
        return tokens

    @torch.no_grad()
    def cache(self) -> ActivationCache | None:
        """The cache, always with a batch dimension, as the oracle reads it; None where the model does not run."""
        texts = [" ".join(f"w{i}" for i in prompt) for prompt in self.prompts]
        hooks = [] if self.hook is None else [(self.hook.name, self.hook)]
        try:
            with self.model.hooks(fwd_hooks=hooks):
                _, cache = self.model.run_with_cache(texts, padding_side=self.side, prepend_bos=True)
        except (RuntimeError, IndexError, ValueError, TypeError):
            assert self.hook is not None or (self.name, self.dtype) == ("olmo2", "bfloat16")
            return None
        if self.hook is None and any(value.isnan().any() for name, value in cache.items() if "hook_pattern" in name):
            return None  # some models in float64 attend to NaN where padding on the left attends to nothing
        assert self.hook is not None or torch.equal(cache["embed.hook_in"], self.tokens())
        return cache

    def given(self, cache: ActivationCache) -> ActivationCache:
        """The cache as the user has it: without a batch dimension where the run has none."""
        given = ActivationCache(dict(cache.items()), self.model)
        if not self.batched:
            given.remove_batch_dim()
        return given

    def batched_again(self, scores: torch.Tensor) -> torch.Tensor:
        return scores if self.batched else scores[None]

    def close(self, got: torch.Tensor, expected: torch.Tensor, slack: float = 1.0) -> None:
        assert got.dtype == (torch.float64 if self.dtype == "float64" else torch.float32)
        atol, rtol = _CLOSE[self.dtype]
        torch.testing.assert_close(got.double(), expected.double(), atol=slack * atol, rtol=slack * rtol)


@dataclass(frozen=True)
class Argument:
    """What is passed, and what it means; None: it must be refused."""

    given: Any
    means: Any


@st.composite
def models(draw: st.DrawFn, *, dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16")) -> dict[str, Any]:
    name = draw(st.sampled_from(list(dict.fromkeys(NAMES))))
    dtype = draw(st.sampled_from(dtypes))
    dtype = "float64" if name in ROUNDED else dtype
    compat = dtype == "float64" and draw(st.booleans())
    return {"name": name, "dtype": dtype, "compat": compat}


def _prompts(batch: int, *, same: bool) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    words = st.integers(0, 92)
    if not same:
        return st.tuples(*[st.lists(words, min_size=1, max_size=6).map(tuple)] * batch)
    return st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.tuples(*[words] * n)] * batch))


@st.composite
def runs(draw: st.DrawFn, *, hooked: bool = True, padded: bool = True, **options: Any) -> Run:
    kind, batch = draw(models(**options)), draw(st.integers(1, 3))
    prompts = draw(_prompts(batch, same=not padded or draw(st.booleans())))
    hook = None
    if hooked and draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(sorted(model(**kind).hook_dict)))
        hook = Hook(name, draw(st.sampled_from([0.01, 1.0, 30.0, float("nan")])), draw(st.integers(0, 99)))
    batched = batch > 1 or draw(st.booleans())
    return Run(**kind, prompts=prompts, side=draw(st.sampled_from(["left", "right"])), hook=hook, batched=batched)


@st.composite
def targets(draw: st.DrawFn, batch: int) -> Argument:
    ids = draw(st.lists(st.integers(0, VOCAB - 1), min_size=batch, max_size=batch))
    first, outside = ids[0], draw(st.sampled_from([-1, VOCAB, 10**6, -VOCAB]))
    word, alike, other = ids[0] % 93, [first] * batch, draw(st.integers(0, VOCAB - 1))
    return draw(
        st.sampled_from(
            [
                Argument(first, alike),
                Argument(f"w{word}", [word] * batch),
                Argument(f" w{word}", [word] * batch),
                Argument("<eos>", [96] * batch),
                Argument(torch.tensor(ids), ids),
                Argument(torch.tensor(ids, dtype=torch.int32), ids),
                Argument(torch.tensor(first), alike),
                Argument(np.int64(first), alike),
                Argument(ids, ids),
                Argument(tuple(f"w{i % 93}" for i in ids), [i % 93 for i in ids]),
                Argument(outside, None),
                Argument(torch.tensor([*ids[1:], outside]), None),
                Argument([*ids, other], None),
                Argument(torch.tensor([*ids, other]), None),
                Argument(torch.tensor([ids]), None) if batch > 1 else Argument(torch.tensor([[[first]]]), None),
                Argument(float(first), None),
                Argument(torch.tensor(ids).double(), None),
                Argument(torch.tensor(ids) > 3, None),
                Argument(True, None),
                Argument([True] * batch, None),
                Argument(f"w{word} w1", None),
                Argument("nowhere", None),
                Argument("", None),
                Argument([], None),
                Argument({first}, None),
                Argument(b"w1", None),
                Argument([None] * batch, None),
            ]
        )
    )


@st.composite
def positions(draw: st.DrawFn, run: Run) -> Argument:
    """``pos``; what it means: a position of each prompt, counted from the start, none of them padding.

    -1 is the last real position of each prompt, as by default; in a tensor it is the last of all.
    """
    length, row = run.length, draw(st.integers(0, run.batch - 1))
    each = [draw(st.sampled_from(run.real(i))) for i in range(run.batch)]
    common = draw(st.integers(-length, -2) | st.integers(0, length - 1))
    minus = [p - length for p in each]
    away = draw(st.sampled_from([length, -length - 1, 10**6]))

    def real(wanted: list[int]) -> list[int] | None:
        return wanted if all(p in run.real(i) for i, p in enumerate(wanted)) else None

    last = [run.real(i)[-1] for i in range(run.batch)]  # what -1, the default, means: padding is passed over
    off = [p for p in range(length) if p not in run.real(row)]
    padding = [*each[:row], draw(st.sampled_from(off)), *each[row + 1 :]] if off else [length] * run.batch
    return draw(
        st.sampled_from(
            [
                Argument(-1, last),
                Argument(common, last if common == -1 else real([common % length] * run.batch)),
                Argument(torch.tensor(common), real([common % length] * run.batch)),
                Argument(torch.tensor(-1), real([length - 1] * run.batch)),
                Argument(torch.tensor(each), each),
                Argument(torch.tensor(each), each),
                Argument(torch.tensor(minus, dtype=torch.int32), each),
                Argument(torch.tensor(padding), None),
                Argument(away, None),
                Argument(torch.tensor([away] * run.batch), None),
                Argument(torch.tensor([*each, 0, 0]), None),
                Argument(torch.tensor(each).double(), None),
                Argument(True, None),
                Argument(0.5, None),
                Argument("last", None),
            ]
        )
    )


def layers() -> st.SearchStrategy[Argument]:
    wrong = [[], [LAYERS], [-1], [0, 0], [True], ["0"], 1, "all", [0.0]]
    some = st.lists(st.integers(0, LAYERS - 1), min_size=1, max_size=LAYERS, unique=True)
    everything = st.just(Argument(None, list(range(LAYERS))))
    return everything | some.map(lambda x: Argument(x, x)) | st.sampled_from(wrong).map(lambda x: Argument(x, None))


def memory() -> st.SearchStrategy[int]:
    return st.sampled_from([1, 100, 10_000, 2**20, 2**28])


def sites() -> st.SearchStrategy[Argument]:
    both = ("attn", "mlp")
    right = {"mlp": "mlp", "attn": "attn"} | {("mlp",): ("mlp",), both: both, ("mlp", "attn"): both}
    wrong = [(), ("mlp", "mlp"), "neuron", ("mlp", "resid"), 3, (1,)]
    means = [Argument(given, (meant,) if isinstance(meant, str) else meant) for given, meant in right.items()]
    return st.sampled_from([*means, *means, *(Argument(given, None) for given in wrong)])


def counts(available: int) -> st.SearchStrategy[Argument]:
    right = [1, 2, 7, 25, available, np.int64(3), torch.tensor(4)]
    wrong = [0, -1, available + 1, 10**12, True, 2.0, "3"]
    means = [Argument(k, int(k)) for k in right if int(k) <= available]
    return st.sampled_from([*means, *means, *(Argument(k, None) for k in wrong)])
