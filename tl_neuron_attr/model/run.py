"""Run a model and keep what scores need: not every activation, and of attention patterns one position's."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.model.cache_checks import needed_by
from tl_neuron_attr.model.hook_points import pattern_hook
from tl_neuron_attr.model.position_cache import PositionCache
from tl_neuron_attr.model.positions import Pos, from_start
from tl_neuron_attr.model.rerun import unembedding_last
from tl_neuron_attr.numerics.sublayer import SITES, Site


@typechecked
def hooks_needed(model: Any, sites: Sequence[Site] = SITES) -> Callable[[str], bool]:
    """Return the ``names_filter`` with which ``model.run_with_cache`` keeps what scores of ``sites`` need.

    Layers, heads, neurons, their query scores and the checks of the cache work on what it lets through; the views of
    two towers need :func:`tl_neuron_attr.incontext.needed_by_towers`.

    Args:
        model: The model.
        sites: The sites whose neurons are scored: ``"mlp"``, ``"attn"`` or both; none for whole layers only.

    Raises:
        ValueError: If a site is unknown.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model = tna.demo.load()
        >>> needed = hooks_needed(model, ["mlp"])
        >>> needed("blocks.0.mlp.hook_post"), needed("blocks.0.attn.hook_pattern")
        (True, False)
        >>> _, cache = model.run_with_cache("Tim Duncan plays the sport of", names_filter=needed)
        >>> tna.value_neurons(cache, " basketball", 1, sites="mlp").score.item() > 1  # nats
        True
    """
    if unknown := [site for site in sites if site not in SITES]:
        raise ValueError(f"sites must name 'mlp', 'attn' or both, got {unknown[0]!r}")
    return needed_by(tuple(site for site in SITES if site in sites), model)


@typechecked
@torch.no_grad()
def run(
    model: Any,
    tokens: str | Sequence[str] | Int[Tensor, "*b pos"],
    *,
    pos: Pos = -1,
    sites: Sequence[Site] = SITES,
    **forward: Any,
) -> PositionCache:
    """Run a model on prompts and return a cache of what scores at ``pos`` need, in place of ``run_with_cache``.

    Attention patterns, which take ``heads * pos * pos`` numbers in every layer, are kept at the scored position alone;
    every other hook that no score needs is left out. What is computed from the cache is the same, bit for bit.

    Args:
        model: The model.
        tokens: A text, texts, or token ids, as ``run_with_cache`` takes them.
        pos: The position to be scored, one for all prompts or one each; the last by default.
        sites: The sites whose neurons will be scored; see :func:`hooks_needed`.
        **forward: What else the model's forward pass takes, such as ``attention_mask``.

    Raises:
        ValueError: If a site is unknown, or ``pos`` is not one position for all prompts or one for each.
        IndexError: If a position lies outside the prompts.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> model, prompt = tna.demo.load(), "Tim Duncan plays the sport of"
        >>> cache = run(model, prompt)
        >>> cache["blocks.0.attn.hook_pattern"].shape[2]  # of seven positions
        1
        >>> full = model.run_with_cache(prompt)[1]
        >>> tna.value_neurons(cache, " basketball", 3) == tna.value_neurons(full, " basketball", 3)
        True
    """
    needed = hooks_needed(model, sites)
    patterns = {hook for layer in range(model.cfg.n_layers) if needed(hook := pattern_hook(layer))}
    rows: dict[str, Tensor] = {}
    places: list[Tensor] = []

    def keep_row(pattern: Tensor, hook: Any) -> None:
        at = from_start(pos, len(pattern), pattern.shape[2]).to(pattern.device).expand(len(pattern))
        rows[hook.name] = pattern[torch.arange(len(pattern), device=pattern.device), :, at][:, :, None].clone()
        places[:] = [at]

    def wanted(name: str) -> bool:
        return needed(name) and name not in patterns

    hooks = [(hook, keep_row) for hook in sorted(patterns & set(model.hook_dict))]
    with model.hooks(fwd_hooks=hooks), _forgetting_patterns(model):
        _, cache = model.run_with_cache(tokens, names_filter=wanted, **forward)
    batch, length = cache["blocks.0.hook_resid_pre"].shape[:2]
    at = places[0].cpu() if places else from_start(pos, batch, length).expand(batch)
    return PositionCache({**cache.cache_dict, **rows}, model, at)


@torch.no_grad()
def run_at_last(
    model: Any, tokens: Int[Tensor, "batch pos"], wanted: Callable[[str], bool], **forward: Any
) -> tuple[Float[Tensor, "batch d_vocab"], ActivationCache]:
    """Return the logits at the last position, the only ones computed, and a cache to score that position with.

    On a large vocabulary the logits of every position take more memory than all else that is cached. The cache shows
    the last ones at every position (without a copy), so that a score at any other is refused: the stream there does not
    read out to them.

    Args:
        model: The model.
        tokens: The prompts, padded on the left if at all.
        wanted: Which hooks are cached.
        **forward: What else the model's forward pass takes.
    """
    with unembedding_last(model, tokens):
        logits, cache = model.run_with_cache(tokens, names_filter=wanted, **forward)
    shown: dict[str, Tensor] = {**cache.cache_dict}
    if (name := "unembed.hook_out") in shown:
        shown[name] = shown[name].expand(-1, tokens.shape[1], -1)
    return logits[:, 0], ActivationCache(shown, model)


@contextmanager
def _forgetting_patterns(model: Any) -> Generator[None]:
    """Drop the whole pattern that an attention bridge keeps of its last run, once its block has run.

    TransformerLens keeps it as ``_pattern`` where one matrix holds queries, keys and values, and reads it nowhere.
    """

    def forget(block: Any, args: object, output: object) -> None:
        own = vars(block.attn) if hasattr(block, "attn") else {}
        if own.get("_pattern") is not None:
            own["_pattern"] = None

    handles = [block.register_forward_hook(forget) for block in model.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
