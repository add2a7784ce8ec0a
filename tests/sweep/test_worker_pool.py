"""A pool of processes writes the same bytes as the loop, also when a worker dies."""

import os
import signal
from multiprocessing import Pipe, current_process
from pathlib import Path

import pytest

from tests.sweep.conftest import parts
from tl_neuron_attr import sweep
from tl_neuron_attr.sweep import worker_pool


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch):
    """Let a worker have one thread, as the loop has here: more round otherwise."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def killed_once(wire, model_name, out, threads):
    """Serve shards, but for the first worker that comes to shard 2, which is killed."""
    real = worker_pool.run_shard

    def run_shard(plan, model, i, *, stage):
        marker = Path(out) / "killed"
        if i == 2 and not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        Path(out, f"served-by-{os.getpid()}").touch()
        return real(plan, model, i, stage=stage)

    worker_pool.run_shard = run_shard
    worker_pool.serve_shards(wire, model_name, out, threads)


def dead_at_once(*args):
    os._exit(3)


@pytest.mark.slow
def test_a_pool_writes_what_the_loop_writes_though_a_worker_dies(model, plan, tmp_path, monkeypatch):
    loop = plan(tmp_path / "loop", shards=6)
    sweep.run_study(loop, model, progress=False)
    plan(tmp_path / "pool", shards=6)
    monkeypatch.setattr(worker_pool, "serve_shards", killed_once)
    sweep.run_in_pool("demo", tmp_path / "pool", workers=2, progress=False)
    assert (tmp_path / "pool" / "killed").exists()
    assert parts(tmp_path / "pool") == parts(tmp_path / "loop")
    assert len(list((tmp_path / "pool").glob("served-by-*"))) <= 3  # two workers, and one for the dead, for both stages


def test_workers_that_die_within_moments_of_their_start_end_the_study(plan, tmp_path, monkeypatch):
    planned = plan(tmp_path)
    monkeypatch.setattr(worker_pool, "serve_shards", dead_at_once)
    monkeypatch.setattr(worker_pool, "_TRIES", 1)
    with pytest.raises(RuntimeError, match=r"1 workers died on shard 0 of 'scores' \(exit code 3\)"):
        sweep.run_in_pool("demo", tmp_path, workers=1, progress=False)
    assert planned.unfinished("scores") == [0, 1, 2, 3]


def test_a_worker_s_error_is_raised_here():
    ours, theirs = Pipe()
    theirs.send(OSError("shard 4 of 'scores' could not be written"))
    with pytest.raises(OSError, match="shard 4"):
        worker_pool._answer(worker_pool._Worker(current_process(), ours, shard=4))


def test_an_error_that_no_other_process_can_read_keeps_its_message():
    class Local(Exception):
        pass

    assert str(worker_pool._sendable(Local("no room"))) == "Local: no room"
    assert isinstance(worker_pool._sendable(ValueError("pos")), ValueError)


def test_a_pool_of_no_workers_is_refused(plan, tmp_path):
    plan(tmp_path)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        sweep.run_in_pool("demo", tmp_path, workers=0)
