import pytest

from tests.evaluate.small_study import SIZES
from tl_neuron_attr import demo, evaluate, sweep


@pytest.fixture(scope="session")
def model():
    return demo.load()


@pytest.fixture(scope="session")
def facts():
    return evaluate.facts(["capital", "sport", "colour"], per_type=4)


@pytest.fixture(scope="session")
def prompts(facts):
    return [prompt for group in facts.values() for prompt in group]


@pytest.fixture
def plan(model, prompts):
    """Plan a study of twelve facts in four shards."""

    def at(folder, task=None, shards=4):
        task = task or sweep.KnowledgeTask(sizes=SIZES, batch_size=3)
        return sweep.plan_study(model, sweep.prompt_items(prompts), task=task, out=folder, shards=shards)

    return at


def parts(folder):
    """Every shard's bytes by name."""
    return {f"{p.parent.name}/{p.name}": p.read_bytes() for p in sorted(folder.glob("*/part-*.parquet"))}
