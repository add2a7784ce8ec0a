"""Ray actors write the same bytes as the loop; what would hang is refused."""

import os

import pytest

from tests.sweep.conftest import parts
from tl_neuron_attr import sweep

ray = pytest.importorskip("ray") if os.environ.get("TNA_REQUIRE_RAY") != "1" else __import__("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actor_processes():
    """Return the process ids of the actors that hold a model."""
    from ray.util.state import list_workers

    return [w.pid for w in list_workers(detail=True) if w.worker_type == "WORKER" and w.is_alive]


@pytest.mark.slow
def test_two_actors_write_what_the_loop_writes(model, plan, tmp_path):
    loop = plan(tmp_path / "loop")
    sweep.run_study(loop, model, progress=False)
    plan(tmp_path / "ray")
    sweep.run_on_ray("demo", tmp_path / "ray", actors=2, cpus=0.5)
    assert parts(tmp_path / "ray") == parts(tmp_path / "loop")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"actors": 2, "cpus": 1.0}, "leave none of 2 for Ray's own tasks, and would hang: set cpus=0.5"),
        ({"actors": 1, "cpus": 0.5, "gpus": 1.0}, "want more than the 0 there are"),
        ({"actors": 0}, "actors, cpus and gpus must be"),
    ],
)
def test_actors_that_would_hang_are_refused(plan, tmp_path, given, message):
    planned = plan(tmp_path)
    with pytest.raises(ValueError, match=message):
        sweep.run_on_ray("demo", tmp_path, **given)
    assert planned.unfinished("scores") == [0, 1, 2, 3]
