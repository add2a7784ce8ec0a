"""Names of models: what may be one of the hub, whether the hub has it, and what is near one that nothing has."""

import re
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
"""What the hub takes for a name; anything else is not looked up there."""
_PATIENCE = 5.0
"""Seconds the hub has to answer; transformers asks six times, which takes 23 seconds where there is no network."""
_NEAR = 3
"""How many near names are shown: more than one, as a size is easily mistyped, and few enough to read in a line."""


def require_model_on_hub(name: str) -> None:
    """Refuse a name that the hub lacks, after one look; a model in the local cache of the hub needs none.

    A hub that answers with any other fault than an unknown name (too many requests, say) is left to the loader.

    Raises:
        FileNotFoundError: If no name on the hub is written so, or the hub has no such model.
        ConnectionError: If the hub cannot be reached, or must not be (``HF_HUB_OFFLINE``).
    """
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(not_loaded(name, "there is no such path, and no name on the hub is written so"))
    official = next((each for each, aliases in MODEL_ALIASES.items() if name in aliases), name)
    if isinstance(try_to_load_from_cache(official, "config.json"), str):
        return
    try:
        HfApi().model_info(official, timeout=_PATIENCE)
    except GatedRepoError:
        return
    except RepositoryNotFoundError:
        reason = "the Hugging Face hub has no such model, or it is private, and there is no such path"
        raise FileNotFoundError(not_loaded(name, reason)) from None
    except HfHubHTTPError:
        return
    except Exception as error:  # the hub's HTTP library raises its own, and which library that is changes
        reason = f"there is no such path, and the Hugging Face hub cannot be reached: {type(error).__name__}"
        raise ConnectionError(not_loaded(name, reason)) from error


def not_loaded(name: str | Path, reason: str) -> str:
    """Return the message for a name that loads nothing: the reason, near names if there are any, what can be given.

    Examples:
        >>> print(not_loaded("gpt2-larg", "the hub has no such model"))
        model 'gpt2-larg' could not be loaded: the hub has no such model;
        did you mean gpt2-large, gpt2-xl or google-t5/t5-large?
        give demo, smollm2-135m, gemma3-270m, qwen2.5-coder-0.5b, a .gguf file, a directory with config.json, weights \
and tokenizer, or a name on the hub
    """
    near = near_names(str(name))
    listed = " or ".join(filter(None, [", ".join(near[:-1]), *near[-1:]]))
    lines = [
        f"model {str(name)!r} could not be loaded: {reason};",
        *([f"did you mean {listed}?"] if near else []),
        f"give demo, {', '.join(PACKAGED_MODELS)}, a .gguf file, a directory with config.json, weights and tokenizer, "
        "or a name on the hub",
    ]
    return "\n".join(lines)


def near_names(name: str) -> list[str]:
    """Return names of models written much as this one, nearest first: ours, and those that TransformerLens lists.

    Owners are left out of the comparison: a name is mostly mistyped, or given without its owner. A name that is right
    has none near it.

    Examples:
        >>> near_names("smollm-135m")
        ['smollm2-135m']
        >>> near_names("pythia70m")[0]
        'EleutherAI/pythia-70m'
    """
    known = ("demo", *PACKAGED_MODELS, *OFFICIAL_MODEL_NAMES)
    if name in known:
        return []
    by_short_name = {each.rpartition("/")[2].lower(): each for each in reversed(known)}  # ours win
    found = get_close_matches(name.rpartition("/")[2].lower(), by_short_name, n=_NEAR, cutoff=0.7)
    return [by_short_name[short] for short in found]
