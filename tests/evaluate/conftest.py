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
    """Prompts whose targets the model predicts, of two types, one of two tokens and one that is left out."""
    with torch.no_grad():
        spoken = [f"w{i} w{i + 3} w{i + 7}" for i in range(0, 40, 5)]
        best = {t: int(model(t)[0, -1, :93].argmax()) for t in spoken}
    found = [StudyPrompt(t, f"w{best[t]}", "xy"[i % 2]) for i, t in enumerate(spoken)]
    text, spoken = "w1 w2", []
    with torch.no_grad():
        for _ in range(2):
            spoken.append(f"w{int(model(' '.join([text, *spoken]))[0, -1, :93].argmax())}")
    return by_type([*found, StudyPrompt(text, "w3 w4", "x"), StudyPrompt(text, " ".join(spoken), "x")])


@pytest.fixture(scope="session")
def study(model, prompts):
    return knowledge_study(model, prompts, sizes=SIZES, every_neuron=True, progress=False)
