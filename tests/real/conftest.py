"""The real models, loaded once each; tests are skipped where they are not installed, or fail where CI requires them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tl_neuron_attr as tna
from tests.real.plain import Plain
from tl_neuron_attr.model.gguf_conversion import package_key
from tl_neuron_attr.model.model_cache import cached_folder

REQUIRED = "TNA_REQUIRE_REAL_MODELS" in os.environ
PROMPTS = {"smollm2-135m": "The capital of France is", "gemma3-270m": "The Eiffel Tower is in the city of"}


@dataclass
class Real:
    """A real model, its cache of one prompt, and the same prompt in plain transformers."""

    name: str
    prompt: str
    model: Any
    logits: Any
    cache: Any
    plain: Plain
    folder: Path

    target: str = " Paris"

    @property
    def target_id(self) -> int:
        return self.model.to_single_token(self.target)


@pytest.fixture(scope="session", params=PROMPTS)
def real(request) -> Real:
    name = request.param
    try:
        model = tna.load(name, device="cpu")
    except (FileNotFoundError, ImportError) as error:
        if REQUIRED:
            raise
        pytest.skip(f"{name} is not installed: {error}")
    ids = model.to_tokens(PROMPTS[name])
    logits, cache = model.run_with_cache(ids)
    folder = cached_folder(package_key(name))
    return Real(name, PROMPTS[name], model, logits.detach(), cache, Plain.run(folder, ids), folder)
