"""Every task keeps the contract: described as JSON, read back, in named stages."""

import json

import pytest

from tests.evaluate.small_study import SIZES
from tl_neuron_attr import sweep
from tl_neuron_attr.sweep.shard_task import ShardTask

TASKS = [
    sweep.KnowledgeTask(sizes=SIZES, seed=3, batch_size=2),
    sweep.FaithfulnessTask(scores=("gradient", "random"), counts=(5, 2), seed=1),
    sweep.HeadEffectsTask(batch_size=5),
    sweep.IclBiasesTask(heads=[(3, 4), (3, 7)], among="labels", seed=2),
    sweep.CatalogueTask(top=7, batch_size=2, window=4),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_survives_its_description(task):
    assert isinstance(task, ShardTask)
    assert type(task).read(json.loads(json.dumps(task.described()))) == task
    assert len(set(task.stages)) == len(task.stages) > 0
