"""The bundles that a server keeps open, within a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread

from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.session import Session
from janus_edge.serve.worker import LOG, Busy, Job, Stopping, Worker

_HELD = 1.25  # memory of an open bundle against its files: buffers and KV caches


class UnknownModel(Exception):
    """A name that the server does not serve."""


class Models:
    """Opens bundles when they are first asked for; closes idle ones that there is no room for.

    Attributes:
        names: Name of each bundle, in the order in which they are listed; the first is the default.
    """

    def __init__(
        self,
        folders: dict[str, Path],
        *,
        memory_mb: int,
        most_waiting: int,
        num_threads: int = 0,
        device: str = "auto",
        report: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """Check nothing and open nothing yet.

        Args:
            folders: Each bundle's folder by its name.
            memory_mb: Room for open bundles, MB; the bundle that is asked for always fits.
            most_waiting: How many images and answers may wait for each.
            num_threads: Threads of the engines; 0 lets the backend choose.
            device: A device's name.
            report: Called with each job that ended, in its worker's thread.
        """
        self.folders, self._memory = folders, memory_mb * 10**6
        self._num_threads, self._device = num_threads, device
        self._most_waiting, self._report = most_waiting, report
        self._workers: dict[str, Worker] = {}
        self._opening: dict[str, Future[Worker]] = {}
        self._lock = Lock()
        self._is_stopping = False

    @property
    def names(self) -> list[str]:
        """The names."""
        return list(self.folders)

    @property
    def is_stopping(self) -> bool:
        """True once no more requests are taken."""
        return self._is_stopping

    @property
    def open(self) -> dict[str, Worker]:
        """What is open, by name."""
        return dict(self._workers)

    def worker(self, name: str | None) -> Worker:
        """Return a bundle's worker; open it if it is not.

        Args:
            name: The name; None for the first.

        Raises:
            UnknownModel: It is not served.
            BundleError: It is damaged.
            Busy: Bundles that work now fill the memory.
            Stopping: The server stops.
        """
        return self.opened(name).result()

    def opened(self, name: str | None) -> Future[Worker]:
        """Return at once what will be a bundle's worker, or the error of ``worker``.

        It opens in a thread of its own, once for all who ask, while other bundles go on working.
        """
        name = self.names[0] if name is None else name
        with self._lock:
            if name in self._opening:
                return self._opening[name]
            found: Future[Worker] = Future()
            found.set_running_or_notify_cancel()  # one who no longer waits cancels it for no other
            try:
                if name not in self.folders:
                    raise UnknownModel(name)
                if self._is_stopping:
                    raise Stopping
                if name in self._workers:
                    found.set_result(self._workers[name])
                    return found
                self._make_room(name)
            except Exception as error:
                found.set_exception(error)
                return found
            self._opening[name] = found
        Thread(target=self._open, args=(name, found), name="janus-edge opens", daemon=True).start()
        return found

    def _open(self, name: str, found: Future[Worker]) -> None:
        try:
            bundle = open_bundle(self.folders[name])
            session = Session(bundle, num_threads=self._num_threads, device=self._device)
            worker = Worker(session, self._most_waiting, self._report)
        except BaseException as error:
            with self._lock:
                del self._opening[name]
            found.set_exception(error)
            return
        LOG.info("opened %s on %s", name, session.device)
        with self._lock:
            del self._opening[name]
            self._workers[name] = worker
            is_late = self._is_stopping
        if is_late:
            worker.stop()
        found.set_result(worker)

    def stop(self, wait: bool) -> int:
        """Stop all workers; return how many requests were not finished."""
        with self._lock:
            self._is_stopping = True
        return sum(worker.stop(wait) for worker in self._workers.values())

    def _make_room(self, name: str) -> None:
        """Close idle bundles, the one that was used longest ago first."""
        idle = sorted(
            (each for each in self._workers.items() if not _works(each[1])),
            key=lambda each: each[1].last_used,
        )
        while (others := [*self._workers, *self._opening]) and self._held(
            [*others, name]
        ) > self._memory:
            if not idle:
                raise Busy
            closed, worker = idle.pop(0)
            self._workers.pop(closed)
            worker.stop(refusal=Busy)
            LOG.info("closed %s to make room for %s", closed, name)

    def _held(self, names: list[str]) -> float:
        files = (path for name in names for path in self.folders[name].rglob("*"))
        return _HELD * sum(path.stat().st_size for path in files if path.is_file())


def _works(worker: Worker) -> bool:
    return worker.num_waiting + worker.num_running > 0
