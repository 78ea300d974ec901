"""Tasks return the same bits wherever they run, and what fails says so in one line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import joblib
import numpy as np
import pytest
import torch

from nearfield import tasks
from nearfield.tasks import cluster, run

MATRIX = np.random.default_rng(0).normal(size=(400, 400))


def product(item, matrix, factor):
    """Sum of a product that several threads, or another order, would round otherwise."""
    drawn = np.random.default_rng(item).normal(size=(300, 400))
    return drawn @ matrix * factor, (drawn @ matrix).sum()


def refuse(item, *worst):
    if item in worst:
        raise ValueError(f"item {item} is bad")
    return item


def die_once(item, folder):
    """End the process of one task, the first time it runs, once no file asks to wait."""
    mark = folder / f"tried-{item}"
    if item == 3 and not mark.exists():
        mark.write_text("")
        while (folder / "wait").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / f"runs-{item}").open("a") as file:
        file.write("x")
    return 2 * item


def die_always(item):
    os.kill(os.getpid(), signal.SIGKILL)


def wait(item):
    time.sleep(0.5)
    return item


def process_of(item):
    time.sleep(0.2)
    return os.getpid()


def overwrite(item, matrix):
    matrix[:] = item
    return float(matrix.sum())


def allowed_growth(item):
    """Bytes that a process may grow by before loky ends it."""
    from joblib.externals.loky import process_executor

    return process_executor._MAX_MEMORY_LEAK_SIZE


def same(first, second):
    return all(np.array_equal(a, b) and x == y for (a, x), (b, y) in zip(first, second, strict=True))


def test_results_come_in_the_order_of_the_items_with_progress():
    told = []
    assert run(pow, [3, 1, 2], 2, progress=lambda *done: told.append(done)) == [9, 1, 4]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert run(pow, [], 2, workers=2) == []


@pytest.mark.slow
def test_processes_return_the_same_bits():
    here = run(product, range(5), MATRIX, 0.1)
    assert same(here, run(product, range(5), MATRIX, 0.1, workers=2))


@pytest.mark.slow
def test_processes_share_a_large_array_and_write_to_none():
    shared = np.zeros((400, 400))
    assert run(overwrite, [1, 2, 3], shared, workers=2) == [160000.0, 320000.0, 480000.0]
    assert not shared.any()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 2])
def test_the_error_of_a_task_is_raised_as_it_is(workers):
    with pytest.raises(ValueError, match=r"^item 2 is bad$"):
        run(refuse, range(5), 2, workers=workers)


@pytest.mark.slow
def test_processes_are_kept_for_the_next_call():
    found, fewer, again = (set(run(process_of, range(n), workers=3)) for n in (6, 2, 6))
    assert len(found | fewer | again) == 3
    with pytest.raises(ValueError, match="item 0 is bad"):
        run(refuse, range(50), 0, workers=3)
    assert found >= set(run(process_of, range(2), workers=3))
    assert len(set(run(process_of, range(9), workers=2))) <= 2


@pytest.mark.slow
def test_joblib_has_processes_of_its_own():
    """Those of its reusable executor must be made by itself, or its next call fails."""
    run(process_of, range(2), workers=2)
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(k) for k in (-1, 2)) == [1, 2]
    assert run(process_of, range(2), workers=2)


@pytest.mark.slow
def test_a_lost_process_costs_only_its_tasks(tmp_path):
    wait = tmp_path / "wait"  # until a result has arrived: those on their way are lost with the process
    wait.write_text("")
    found = run(die_once, range(6), tmp_path, workers=2, progress=lambda *_: wait.unlink(missing_ok=True))
    assert found == [0, 2, 4, 6, 8, 10]
    assert (tmp_path / "runs-0").read_text() == "x"


@pytest.mark.slow
def test_processes_that_die_always_are_given_up():
    with pytest.raises(ChildProcessError, match="workers were lost again and again"):
        run(die_always, range(2), workers=2)


def test_here_is_where_no_cluster_is():
    with cluster() as client:
        assert client is None
    with cluster(workers=1) as client:
        assert client is None
    with pytest.raises(ValueError, match="workers must be None with a scheduler"), cluster(2, "tcp://127.0.0.1:1"):
        pass


def test_no_scheduler_at_the_address(monkeypatch):
    monkeypatch.setattr(tasks, "_PATIENCE", "200ms")
    with (
        pytest.raises(ConnectionError, match=r"scheduler must be .* runs, got 'tcp://127.0.0.1:1'; "),
        cluster(scheduler="tcp://127.0.0.1:1"),
    ):
        pass


def test_dask_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"pip install 'nearfield\[dask\]'"), cluster(workers=2):
        pass


@pytest.mark.slow
def test_a_cluster_returns_the_same_bits(client):
    told = []
    found = run(product, range(5), MATRIX, 0.1, progress=lambda *done: told.append(done))
    assert told[-1] == (5, 5)
    assert same(found, [product(item, MATRIX, 0.1) for item in range(5)])
    assert len(client.run(os.getpid)) == 2


@pytest.mark.slow
def test_tasks_ran_on_the_cluster(client):
    pids = set(client.run(os.getpid).values())
    assert set(run(lambda item: os.getpid(), range(4))) <= pids
    assert run(lambda item: run(pow, [item], 2), [3, 4]) == [[9], [16]]  # within a task, here


def box_of(item, array):
    return float(array[item].sum())


@pytest.mark.slow
def test_tasks_read_lazy_arrays_by_themselves(client):
    import dask.array as da

    lazy = da.from_array(MATRIX, chunks=(1, 100))
    assert run(box_of, range(4), lazy) == [float(MATRIX[k].reshape(4, 100).sum(1).sum()) for k in range(4)]
    keys = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])
    assert not [key for key in keys if "box_of" not in key and "Shared" not in key]


class Locked(torch.nn.Module):
    """Module with something that cannot be sent, and says how to be pickled."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __getstate__(self):
        return self.__dict__ | {"lock": None}


def has_lock(item, module):
    return module.lock is not None


@pytest.mark.slow
def test_modules_are_sent_as_they_are_pickled(client):
    assert run(has_lock, range(3), Locked()) == [False, False, False]


@pytest.mark.slow
def test_errors_of_a_cluster_are_raised_as_they_are(client):
    with pytest.raises(ValueError, match=r"^item 2 is bad$"):
        run(refuse, range(5), 2)


@pytest.mark.slow
def test_a_lost_worker_costs_only_its_tasks(tmp_path):
    with cluster(workers=2):
        assert run(die_once, range(6), tmp_path) == [0, 2, 4, 6, 8, 10]
    assert [(tmp_path / f"runs-{k}").read_text() for k in range(6)].count("x") >= 5


@pytest.mark.slow
def test_workers_that_die_always_are_given_up():
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster(workers=2),
        pytest.raises(ChildProcessError, match="workers were lost again and again"),
    ):
        run(die_always, range(2))


@pytest.mark.slow
def test_what_tasks_share_is_sent_again_when_its_last_copy_is_lost(tmp_path):
    with cluster(workers=2) as client:
        pids = list(client.run(os.getpid).values())
        killed = []

        def progress(done, total):
            if not killed:
                killed.extend(pids)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)

        assert run(lambda item, matrix: (time.sleep(0.3), item + matrix.sum())[1], range(8), MATRIX, progress=progress)


@pytest.mark.slow
def test_a_scheduler_that_hangs_up_and_is_there_has_lost_a_worker(client, monkeypatch):
    """As it does where a worker dies to which it sends what tasks share."""
    from distributed.comm.core import CommClosedError

    scatter, asked = client.scatter, []

    def closed(*given, **options):
        asked.append(given)
        if len(asked) < 3:
            raise CommClosedError("Stream is closed")
        return scatter(*given, **options)

    monkeypatch.setattr(client, "scatter", closed)
    assert run(lambda item, more: item + more, range(3), 7) == [7, 8, 9]
    assert len(asked) == 3


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line(tmp_path):
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file)]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", *options]
    places = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=places)
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1", *options],
        stderr=subprocess.DEVNULL,
        env=places,
    )
    try:
        while not (file.exists() and file.read_text().endswith("}")):
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        match = rf"the Dask scheduler at {address} went away; run the same call again"
        with cluster(scheduler=address):
            with pytest.raises(ConnectionError, match=match):
                run(wait, range(20), progress=lambda done, total: scheduler.kill())
            with pytest.raises(ConnectionError, match=match):
                run(wait, range(20))
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_processes_that_keep_what_they_read_are_not_ended():
    assert min(run(allowed_growth, [0, 1], workers=2)) > 1 << 40
