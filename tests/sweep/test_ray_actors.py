"""Ray actors write the same bytes as the loop; what would hang is refused."""

import os
import signal
import threading
import time
from pathlib import Path

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


def actors():
    """Return the process ids of the actors, as Ray titles them."""
    titles = ((p.parent.name, p.read_bytes()) for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
    return [int(pid) for pid, title in titles if title.startswith(b"ray::") and b"ShardActor" in title]


@pytest.mark.slow
def test_a_killed_actor_loses_one_shard_and_the_study_ends(model, plan, tmp_path):
    loop, planned = plan(tmp_path / "loop", shards=12), plan(tmp_path / "ray", shards=12)
    sweep.run_study(loop, model, progress=False)
    killed = []

    def kill_one():
        while len(planned.unfinished("scores")) > 10 or not actors():
            time.sleep(0.05)
        killed.extend(actors()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    sweep.run_on_ray("demo", tmp_path / "ray", actors=2, cpus=0.5)
    killer.join(timeout=5)
    assert len(killed) == 1
    assert parts(tmp_path / "ray") == parts(tmp_path / "loop")


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
        ({"actors": 2, "cpus": 1.5}, "want more than the 2 there are, and would wait for ever: set cpus=1,"),
        ({"actors": 1, "cpus": 0.5, "gpus": 1.0}, "want more than the 0 there are"),
        ({"actors": 0}, "actors, cpus and gpus must be"),
    ],
)
def test_actors_that_would_hang_are_refused(plan, tmp_path, given, message):
    planned = plan(tmp_path)
    with pytest.raises(ValueError, match=message):
        sweep.run_on_ray("demo", tmp_path, **given)
    assert planned.unfinished("scores") == [0, 1, 2, 3]
