"""One knowledge study of a tiny random model, shared by the files that test its parts."""

import pytest
import torch

from tests import architectures
from tests.evaluate.small_study import SIZES
from tl_neuron_attr.evaluate import StudyPrompt, by_type, knowledge_study


@pytest.fixture(scope="session")
def model():
    return architectures.build("llama", dtype=torch.float32)


@pytest.fixture(scope="session")
def prompts(model):
    """Prompts whose targets the model predicts, of two types, and one that is left out."""
    with torch.no_grad():
        said = [f"w{i} w{i + 3} w{i + 7}" for i in range(0, 40, 5)]
        best = {t: int(model(t)[0, -1, :93].argmax()) for t in said}
    found = [StudyPrompt(t, f"w{best[t]}", "xy"[i % 2]) for i, t in enumerate(said)]
    return by_type([*found, StudyPrompt("w1 w2", "w3 w4", "x")])


@pytest.fixture(scope="session")
def study(model, prompts):
    return knowledge_study(model, prompts, sizes=SIZES, every_neuron=True, progress=False)
