"""Shards one after another: skipped when finished, whole or not at all, and the merge the same bytes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from tests.sweep.conftest import parts
from tl_neuron_attr import demo, incontext, sweep

RUN = """
import sys
import torch
from tl_neuron_attr import demo, sweep
torch.set_num_threads(1)  # as the tests: another number of threads rounds otherwise
sweep.run_study(sweep.open_plan(sys.argv[1]), demo.load())
"""


def tables(folder):
    sweep.merge_study(folder)
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


def test_a_finished_shard_is_not_made_again(model, plan, tmp_path, monkeypatch):
    planned = plan(tmp_path)
    assert sweep.run_shard(planned, model, 2)
    before = parts(tmp_path)
    monkeypatch.setattr(type(planned.task), "rows", lambda *args: pytest.fail("made again"))
    assert sweep.run_shard(planned, model, 2)
    assert parts(tmp_path) == before
    assert list(before) == ["scores/part-00002.parquet"]


def test_order_and_interruptions_change_no_byte(model, plan, tmp_path):
    one, other = plan(tmp_path / "one"), plan(tmp_path / "other")
    sweep.run_study(one, model, progress=False)
    for i in (3, 0):
        sweep.run_shard(other, model, i)
    sweep.run_study(other, model, progress=False)
    assert parts(tmp_path / "one") == parts(tmp_path / "other")
    assert tables(tmp_path / "one") == tables(tmp_path / "other")


def test_some_shards_of_one_stage_as_an_array_job_runs_them(model, plan, tmp_path):
    planned = plan(tmp_path)
    for shard in range(4):
        sweep.run_study(planned, model, shards=[shard], stages=["scores"], progress=False)
    assert planned.unfinished("scores") == []
    assert planned.unfinished("cross") == [0, 1, 2, 3]


def test_a_stage_wants_the_one_before_finished(model, plan, tmp_path):
    planned = plan(tmp_path)
    sweep.run_study(planned, model, shards=[0, 1], stages=["scores"], progress=False)
    with pytest.raises(FileNotFoundError, match="shards 2, 3 of 'scores' are not finished"):
        sweep.run_study(planned, model, stages=["cross"], progress=False)
    with pytest.raises(FileNotFoundError, match="shards 2, 3"):
        sweep.merge_study(tmp_path)
    with pytest.raises(ValueError, match="stages must be of"):
        sweep.run_study(planned, model, stages=["other"], progress=False)


def test_a_busy_shard_is_left_to_the_one_at_it(model, plan, tmp_path):
    planned = plan(tmp_path)
    planned.known("scores")
    with planned.folder.lock("scores-00001", wait=False):
        assert not sweep.run_shard(planned, model, 1, wait=False)
    assert planned.unfinished("scores") == [0, 1, 2, 3]


def test_two_runs_in_one_folder_do_not_harm_each_other(model, plan, tmp_path):
    alone = plan(tmp_path / "alone")
    sweep.run_study(alone, model, progress=False)
    plan(tmp_path / "both")

    def run(_):
        return subprocess.run([sys.executable, "-c", RUN, tmp_path / "both"], check=False).returncode

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, range(2))) == [0, 0]
    assert parts(tmp_path / "both") == parts(tmp_path / "alone")


@pytest.mark.parametrize("stage", ["scores", "cross"])
def test_a_killed_study_loses_the_shard_in_flight_only(model, plan, tmp_path, stage):
    undisturbed, killed = plan(tmp_path / "undisturbed", shards=12), plan(tmp_path / "killed", shards=12)
    sweep.run_study(undisturbed, model, progress=False)
    if stage == "cross":
        sweep.run_study(killed, model, stages=["scores"], progress=False)
    process = subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "killed"])
    while len(killed.unfinished(stage)) > 8 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = parts(tmp_path / "killed")
    assert len([name for name in finished if name.startswith(stage)]) >= 4
    whole = parts(tmp_path / "undisturbed")
    assert finished == {name: whole[name] for name in finished}
    sweep.run_study(sweep.open_plan(tmp_path / "killed"), model, progress=False)
    assert tables(tmp_path / "killed") == tables(tmp_path / "undisturbed")


STUDIES = {
    "faithfulness": lambda model, prompts: (
        sweep.FaithfulnessTask(scores=["log_prob_increase", "random"], counts=[3]),
        sweep.prompt_items(prompts),
    ),
    "icl_biases": lambda model, prompts: (
        sweep.IclBiasesTask(heads=[(3, 4), (3, 7)]),
        sweep.icl_items(incontext.from_demo(model, demo.in_context(6, 4, counts=(2, 2)))),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_two_workers_one_of_them_killed_and_a_resumed_run_write_what_a_loop_writes(model, prompts, tmp_path, name):
    task, items = STUDIES[name](model, prompts)
    loop, shared = (sweep.plan_study(model, items, task=task, out=tmp_path / at, shards=6) for at in ("loop", "shared"))
    sweep.run_study(loop, model, progress=False)
    workers = [subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "shared"]) for _ in range(2)]
    while len(parts(tmp_path / "shared")) < 2 and all(worker.poll() is None for worker in workers):
        time.sleep(0.02)
    workers[0].kill()
    time.sleep(0.1)  # the other works on alone
    workers[1].kill()
    assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 2
    sweep.run_study(shared, model, progress=False)
    assert parts(tmp_path / "shared") == parts(tmp_path / "loop")
    assert tables(tmp_path / "shared") == tables(tmp_path / "loop")


def test_a_damaged_shard_is_named_and_repaired(model, plan, tmp_path):
    planned = plan(tmp_path)
    sweep.run_study(planned, model, progress=False)
    before = parts(tmp_path)
    (tmp_path / planned.part("scores", 2)).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="shard 2 of 'scores' can't be read"):
        sweep.merge_study(tmp_path)
    assert sweep.repair_study(tmp_path) == ["scores/part-00002.parquet"]
    sweep.run_study(planned, model, progress=False)
    assert parts(tmp_path) == before


def test_a_full_disk_names_the_shard_and_leaves_nothing(model, plan, tmp_path, monkeypatch):
    planned = plan(tmp_path)
    planned.known("scores")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="shard 1 of 'scores' could not be written"):
            sweep.run_shard(planned, model, 1)
    assert parts(tmp_path) == {}
    assert sweep.run_shard(planned, model, 1)


def test_a_study_at_a_url(model, prompts, plan, tmp_path):
    url = f"memory://{tmp_path.name}"
    planned = plan(url, shards=2)
    sweep.run_study(planned, model, progress=False)
    on_disk = plan(tmp_path, shards=2)
    sweep.run_study(on_disk, model, progress=False)
    found, expected = sweep.merge_study(url), sweep.merge_study(tmp_path)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame)
