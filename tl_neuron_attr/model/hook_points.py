"""The names of the hook points that papers attach functions to or cache: no other floor spells them."""

from collections.abc import Iterable

TOKENS = "embed.hook_in"
"""The token ids that a run is given."""


def resid_pre_hook(layer: int) -> str:
    """Return the hook of the stream that a block reads.

    Examples:
        >>> resid_pre_hook(3)
        'blocks.3.hook_resid_pre'
    """
    return f"blocks.{layer}.hook_resid_pre"


def resid_post_hook(layer: int) -> str:
    """Return the hook of the stream after a block.

    Examples:
        >>> resid_post_hook(3)
        'blocks.3.hook_resid_post'
    """
    return f"blocks.{layer}.hook_resid_post"


def pattern_hook(layer: int) -> str:
    """Return the hook of a block's attention patterns.

    Examples:
        >>> pattern_hook(3)
        'blocks.3.attn.hook_pattern'
    """
    return f"blocks.{layer}.attn.hook_pattern"


def mlp_post_hook(layer: int) -> str:
    """Return the hook of a block's MLP coefficients.

    Examples:
        >>> mlp_post_hook(3)
        'blocks.3.mlp.hook_post'
    """
    return f"blocks.{layer}.mlp.hook_post"


def hooks_of_patterns(layers: Iterable[int]) -> list[str]:
    """Return the hooks from which a :class:`~tl_neuron_attr.model.stream.Stream` reads tokens and some patterns.

    Examples:
        >>> hooks_of_patterns([3, 1, 3])
        ['blocks.0.hook_resid_pre', 'blocks.1.attn.hook_pattern', 'blocks.3.attn.hook_pattern', 'embed.hook_in']
    """
    return sorted({TOKENS, resid_pre_hook(0), *map(pattern_hook, layers)})
