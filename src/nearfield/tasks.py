"""Tasks that know nothing of each other: here, on processes, or on a Dask cluster.

What a task returns depends on its arguments alone, never on where it runs: each computes on one thread, since sums over
several round otherwise. Tasks of one call share their further arguments, which every worker gets once.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import logging
import secrets
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import joblib
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["active_client", "cluster", "release", "run"]

_Result = TypeVar("_Result")

_ATTEMPTS = 4
"""Times that tasks are handed out whose workers are lost."""

_LOCAL: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
"""Processes of one thread; any free port will do; losses are told by errors, not by logs."""

_ENTERED: contextvars.ContextVar[Client | None] = contextvars.ContextVar("_ENTERED", default=None)
"""Client of `cluster`. It is not Dask's default, under which xarray locks the files that it writes by the cluster."""

_PATIENCE = "10s"
"""Time that a scheduler has to answer."""


_UNDER_WAY = 2
"""Tasks for each process that are handed out and not done."""
_IDLE = 300
"""Seconds after which a process ends that has no tasks."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_KEPT: dict[int, Any] = {}
"""Processes that wait for tasks, by their number; one entry at most."""


def run(
    function: Callable[..., _Result],
    items: Sequence[Any],
    *common: Any,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[_Result]:
    """Call a function for each item, on the workers there are; the results are the same to the last bit.

    On the active Dask client, such as that of `cluster`, if there is one; else on as many processes of this machine as
    `workers`; else here, one after the other.

    Parameters
    ----------
    function : callable
        Called with an item and `common`; for processes and clusters it must be importable, and change no argument.
    items : sequence
        Small: each is sent by itself.
    *common : object
        Sent once to each worker; of large arrays, processes of one machine share the memory.
    workers : int, optional
        Processes, as joblib's ``n_jobs``.
    progress : callable, optional
        Called with the tasks done and their number.

    Returns
    -------
    list
        In the order of the items.

    Raises
    ------
    Exception
        That of the first task that fails, as it is.
    ChildProcessError, ConnectionError
        If workers are lost again and again, or the scheduler is. The loss of one worker costs its tasks alone, which
        are done again.

    Examples
    --------
    >>> run(pow, [2, 3, 4], 2)
    [4, 9, 16]
    """
    client, processes = active_client(), joblib.effective_n_jobs(workers or 1)
    way = _here
    if client is not None:
        way = functools.partial(_on_cluster, client)
    elif processes > 1 and len(items) > 1:
        way = functools.partial(_on_processes, processes)
    found: dict[int, _Result] = {}

    def work() -> list[_Result]:
        left = {number: item for number, item in enumerate(items) if number not in found}
        for number, result in way(function, left, common):
            found[number] = result
            if progress is not None:
                progress(len(found), len(items))
        return [found[number] for number in range(len(items))]

    return _until_done(work)


@contextlib.contextmanager
def cluster(workers: int | None = None, scheduler: str | None = None) -> Iterator[Client | None]:
    """Run tasks on a Dask cluster: one of processes of this machine, or one that runs already.

    Parameters
    ----------
    workers : int, optional
        Processes to start on this machine, as joblib's ``n_jobs``; one, or None, starts none.
    scheduler : str, optional
        Address of a running scheduler, such as ``tcp://10.0.0.1:8786``.

    Yields
    ------
    Client or None
        What `run` takes; None where tasks run in this process.

    Raises
    ------
    ValueError
        If both are given.
    ImportError
        If Dask is not installed.
    ConnectionError, ChildProcessError
        If there is no scheduler at the address, or workers cannot be started.

    Examples
    --------
    >>> with cluster(workers=None) as client:
    ...     run(abs, [-1], workers=1)
    [1]
    """
    if scheduler is not None and workers is not None:
        raise ValueError(f"workers must be None with a scheduler, which has its own, got {workers}")
    processes = joblib.effective_n_jobs(workers or 1)
    if scheduler is None and processes == 1:
        yield None
        return
    _require_dask()
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            try:
                address = stack.enter_context(LocalCluster(n_workers=processes, **_LOCAL))
            except RuntimeError as error:
                raise ChildProcessError(f"{processes} workers could not be started ({error}); try again") from error
        try:
            client = stack.enter_context(Client(address, timeout=_PATIENCE, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise ConnectionError(
                f"scheduler must be the address of a Dask scheduler that runs, got {scheduler!r}; `dask scheduler` "
                "starts one and tells it"
            ) from error
        token = _ENTERED.set(client)
        try:
            yield client
        finally:
            _ENTERED.reset(token)


def _require_dask() -> None:
    try:
        import dask  # noqa: F401
        import distributed  # noqa: F401
    except ImportError as error:
        raise ImportError("clusters need Dask: pip install 'nearfield[dask]'") from error


def active_client() -> Client | None:
    """Return the active client, if there is one; tasks within a task run where it does."""
    if "distributed" not in sys.modules:
        return None
    entered = _ENTERED.get()
    if entered is not None:
        if entered.status != "running":
            raise _gone(entered)
        return entered
    from distributed import Client, get_worker

    with contextlib.suppress(ValueError):
        get_worker()
        return None
    try:
        client = Client.current()
    except ValueError:
        return None
    return client if client.status == "running" else None


class _LostWorkerError(Exception):
    """A worker ended within a task, or with the only copy of a result."""


def _until_done(work: Callable[[], _Result]) -> _Result:
    """Go on with what lost workers leave undone."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(_LostWorkerError):
            return work()
    try:
        return work()
    except _LostWorkerError as error:
        raise _lost() from error


def _lost() -> ChildProcessError:
    return ChildProcessError(
        "workers were lost again and again, killed or out of memory; give each more memory or take fewer, and run the "
        "same call again: finished tiles are kept"
    )


def _here(
    function: Callable[..., _Result], items: Mapping[int, Any], common: tuple[Any, ...]
) -> Iterator[tuple[int, _Result]]:
    with _one_thread():
        for number, item in items.items():
            yield number, function(item, *common)


def _on_processes(
    processes: int, function: Callable[..., _Result], items: Mapping[int, Any], common: tuple[Any, ...]
) -> Iterator[tuple[int, _Result]]:
    from joblib.externals.loky import FIRST_COMPLETED, wait
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    executor, left, futures = _executor(min(processes, len(items)), processes), iter(items.items()), dict[Any, int]()
    with tempfile.TemporaryDirectory(prefix="nearfield-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "common"
        joblib.dump(common, path)
        try:
            while True:
                for number, item in itertools.islice(left, _UNDER_WAY * processes - len(futures)):
                    futures[executor.submit(_with_stored, function, item, path)] = number
                if not futures:
                    return
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    yield futures.pop(future), future.result()
        except TerminatedWorkerError as error:
            _KEPT.clear()
            raise _LostWorkerError from error
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # no task goes on after this


def _executor(fewest: int, most: int) -> Any:
    """Return processes that wait for tasks: those of the call before, if there are enough, since they start slowly.

    They are not those that joblib keeps for its own calls, which it expects to have made.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    size = next(iter(_KEPT), 0)
    if not fewest <= size <= most:
        release()
        size = fewest
        _KEPT[size] = ProcessPoolExecutor(size, timeout=_IDLE, env=dict.fromkeys(_THREADS, "1"))
    return _KEPT[size]


def release() -> None:
    """End the processes that wait for tasks."""
    while _KEPT:
        _KEPT.popitem()[1].shutdown()


def _with_stored(function: Callable[..., _Result], item: Any, path: Path) -> _Result:
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize  # loky takes tiles that are kept for a leak, and ends workers
    return _alone(function, item, *_stored(path))


@functools.lru_cache(maxsize=1)
def _stored(path: Path) -> tuple[Any, ...]:
    """Read what tasks share; its large arrays stay in the file, and what a task would write to them in the task."""
    shared: tuple[Any, ...] = joblib.load(path, mmap_mode="c")
    return shared


def _on_cluster(
    client: Client, function: Callable[..., _Result], items: Mapping[int, Any], common: tuple[Any, ...]
) -> Iterator[tuple[int, _Result]]:
    name = f"{getattr(function, '__name__', 'task')}-{secrets.token_hex(8)}"
    with _reached(client), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")  # borders are no data to be loaded
        shared = client.scatter(_Shared(common), broadcast=True, hash=False)
        futures = {
            client.submit(_with_shared, function, item, shared, key=f"{name}-{number}", pure=False): number
            for number, item in items.items()
        }
    yield from _gathered(client, futures)


@final
@dataclass(frozen=True)
class _Shared:
    """What tasks share, in one object: Dask looks into lists, and sends modules without their own way to be pickled."""

    values: tuple[Any, ...]


def _with_shared(function: Callable[..., _Result], item: Any, shared: _Shared) -> _Result:
    return _alone(function, item, *shared.values)


def _gathered(client: Client, futures: dict[Any, int]) -> Iterator[tuple[int, Any]]:
    """Yield numbers and results of futures as they come, and let go of them."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    try:
        for future in as_completed(list(futures), loop=client.loop):
            if future.status == "error":
                error = future.exception()
                raise _lost() if isinstance(error, KilledWorker) else error.with_traceback(None)
            with _reached(client):
                result = future.result()
            yield futures.pop(future), result
    finally:
        if futures and client.status == "running":
            with contextlib.suppress(Exception):
                client.cancel(list(futures), force=True)


@contextlib.contextmanager
def _reached(client: Client) -> Iterator[None]:
    """Tell the loss of a worker from that of the scheduler."""
    from concurrent.futures import CancelledError

    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CommClosedError, CancelledError, TimeoutError) as error:
        # the last copy is lost, or the scheduler hung up as the worker did to which it sent something
        if client.status == "running" and (isinstance(error, CancelledError) or _answers(client)):
            raise _LostWorkerError from error
        raise _gone(client) from error


def _answers(client: Client) -> bool:
    """Whether the scheduler is there."""
    with contextlib.suppress(Exception):
        assert client.scheduler is not None
        client.sync(client.scheduler.identity, callback_timeout=_PATIENCE)
        return True
    return False


def _gone(client: Client) -> ConnectionError:
    address = client.scheduler.address if client.scheduler is not None else "its address"
    return ConnectionError(
        f"the Dask scheduler at {address} went away; run the same call again: finished tiles are kept"
    )


def _alone(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a function on one thread of a worker, which keeps to one."""
    _limit(len(sys.modules))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with _lazily_here():
        return function(*arguments)


@functools.lru_cache(maxsize=1)
def _limit(n_modules: int) -> None:  # noqa: ARG001
    """Keep the libraries that are loaded to one thread; it takes milliseconds to find them."""
    threadpool_limits(1)


def _lazily_here() -> contextlib.AbstractContextManager[object]:
    """Read Dask's arrays in the thread of the task, which would otherwise wait for tasks of their own."""
    dask = sys.modules.get("dask")
    return contextlib.nullcontext() if dask is None else dask.config.set(scheduler="synchronous")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread of this process for a while."""
    torch: Any = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    try:
        with threadpool_limits(1), _lazily_here():
            if torch is not None:
                torch.set_num_threads(1)
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)
