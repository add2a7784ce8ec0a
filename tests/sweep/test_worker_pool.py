"""A pool of processes writes the same bytes as the loop, also when a worker dies."""

import os
import signal
from concurrent.futures import as_completed

import pytest

from tests.sweep.conftest import parts
from tl_neuron_attr import sweep
from tl_neuron_attr.sweep import worker_pool


@pytest.mark.slow
def test_a_pool_writes_what_the_loop_writes_though_a_worker_dies(model, plan, tmp_path, monkeypatch):
    loop = plan(tmp_path / "loop", shards=6)
    sweep.run_study(loop, model, progress=False)
    plan(tmp_path / "pool", shards=6)
    killed, pools = [], []

    class Watched(worker_pool.ProcessPoolExecutor):
        def __init__(self, *args):
            super().__init__(*args)
            pools.append(self)

    def killing(futures):
        """Kill one worker, once, when all have their shards."""
        if not killed:
            killed.append(next(iter(pools[0]._processes)))
            os.kill(killed[0], signal.SIGKILL)
        return as_completed(futures)

    monkeypatch.setattr(worker_pool, "ProcessPoolExecutor", Watched)
    monkeypatch.setattr(worker_pool, "as_completed", killing)
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # one thread a worker, as the loop has here: more round otherwise
    with pytest.raises(RuntimeError, match="finished none"):
        sweep.run_in_pool("demo", tmp_path / "pool", workers=2, progress=False)
    sweep.run_in_pool("demo", tmp_path / "pool", workers=2, progress=False)
    assert len(killed) == 1
    assert parts(tmp_path / "pool") == parts(tmp_path / "loop")


def test_a_pool_of_no_workers_is_refused(plan, tmp_path):
    plan(tmp_path)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        sweep.run_in_pool("demo", tmp_path, workers=0)
