"""One worker per device, and the queue before it: jobs that can be watched and stopped."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from restore.errors import RestoreError
from restore.jobs import Progress, Report
from restore.serve.memory import trim

Work = Callable[[Report], Any]
IDLE = 1.0  # seconds without a job, until memory is given back
REMEMBERED = 100  # jobs of the past that can still be asked about

log = logging.getLogger("restore.serve")
_here = threading.local()  # of a worker: its device


class Refused(RestoreError):  # noqa: N818 - no fault of the server's
    """A job that the server does not do, or not to its end; `status` is HTTP's."""

    status = 400


class Busy(Refused):
    """The queue is full."""

    status = 429


class Closing(Refused):
    """The server stops."""

    status = 503


class Unknown(Refused):
    """There is no such job."""

    status = 404


class TimedOut(Refused):
    """A job took too long."""

    status = 408


class Stopped(Refused):
    """Somebody stopped the job; `why` is cancelled, interrupted or skipped."""

    status = 409

    def __init__(self, why: str) -> None:
        super().__init__(f"the job was {why}")
        self.why = why


class Ticket:
    """One job, from the queue to its answer."""

    def __init__(self, work: Work, name: str, id: str | None) -> None:
        self.id, self.name = id or secrets.token_hex(8), name
        self.state = "queued"  # then running, then done, failed or stopped
        self.done = self.total = 0  # network calls made, and expected
        self.ahead = 0  # jobs before it in the queue
        self.seconds = 0.0  # at work
        self._work: Work | None = work
        self._stop: str | None = None
        self._begin = self._deadline = float("inf")
        self._newest: Progress | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # of how it ends
        self._finished = threading.Event()
        self._then: list[Callable[[], None]] = []

    # ---- for those who wait

    def preview(self) -> Tensor | None:
        """(B,3,H,W) in [0, 1], the newest estimate of the region at work; None where there is none yet, or no more, or
        where an autoencoder would have to be asked for it."""
        newest = self._newest
        return None if newest is None or newest.codec.latent else newest.preview

    def stop(self, why: str = "cancelled") -> None:
        """Have it stop before its next network call, or never begin; what is cancelled stays so, and has no answer."""
        with self._lock:
            if why == "cancelled" or self._stop in (None, "skipped"):
                self._stop = why
            if why == "cancelled" and self._answer is not None:
                self._answer, self._error = None, Stopped(why)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has finished, in one way or another, within so many seconds."""
        return self._finished.wait(timeout)

    def result(self) -> Any:
        """What the work returned, or raises what it raised: once, as nothing is kept."""
        self.wait()
        with self._lock:
            answer, error, self._answer, self._error = self._answer, self._error, None, None
        try:
            if error is not None:
                raise error
            return answer
        finally:
            del error  # which has this frame in its traceback

    def then(self, call: Callable[[], None]) -> None:
        """Call this, once and from another thread, when the job has finished; at once where it has."""
        with self._lock:
            if not self._finished.is_set():
                self._then.append(call)
                return
        call()

    @property
    def stopping(self) -> str | None:
        """Why it will stop, where it will."""
        return self._stop

    @property
    def left(self) -> float:
        """Seconds until it is finished, as far as its pace so far tells; 0 before it has one."""
        if not self.done or self.state != "running":
            return 0.0
        return (time.monotonic() - self._begin) * max(0, self.total - self.done) / self.done

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        seconds = time.monotonic() - self._begin if self.state == "running" else self.seconds
        shown = {"id": self.id, "name": self.name, "state": self.state, "done": self.done, "total": self.total}
        return {**shown, "ahead": self.ahead, "seconds": round(seconds, 2)}

    # ---- for the worker

    def report(self, progress: Progress) -> None:
        """What the work tells after each network call. Raises Stopped and TimedOut, which end it."""
        self.done, self.total, self._newest = progress.done, progress.total, progress
        self.check()

    def check(self) -> None:
        """Raise Stopped or TimedOut where the job has to end."""
        with self._lock:
            why = self._stop
            if why == "skipped":  # the next of several answers may follow
                self._stop = None
        if why:
            raise Closing("the server stops: try again later") if why == "closing" else Stopped(why)
        if time.monotonic() > self._deadline:
            raise TimedOut(f"the job took over {time.monotonic() - self._begin:.0f} s: ask for fewer steps or pixels")

    def run(self, most: float) -> None:
        """Do the work, for at most so many seconds."""
        self.state, self._begin = "running", time.monotonic()
        self._deadline = self._begin + most
        try:
            self.check()
            answer = self._work(self.report)
        except BaseException as error:  # of any kind: it is told to the one who waits, and the worker goes on
            self.finish("stopped" if isinstance(error, Refused) else "failed", _harmless(error))
        else:
            self.finish("done", answer=answer)

    def finish(self, state: str, error: Exception | None = None, answer: Any = None) -> None:
        """Nothing large is kept but the answer, for the one who takes it."""
        with self._lock:
            if self._begin < float("inf"):
                self.seconds = time.monotonic() - self._begin
            if state == "done" and self._stop == "cancelled":  # too late to be noticed, but nobody takes the answer
                state, error, answer = "stopped", Stopped("cancelled"), None
            self.state, self._error, self._answer, self._work, self._newest = state, error, answer, None, None
            self._finished.set()
            calls, self._then = self._then, []
        for call in calls:
            try:
                call()
            except Exception as problem:  # such as a loop that was closed: the worker goes on
                log.warning("job %s: nobody could be told that it finished: %s", self.id, problem)


def _harmless(error: BaseException) -> Exception:
    """What a work raised, never what ends a process; where is kept as text: a traceback would hold the pictures."""
    found = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, RestoreError):
        found.add_note("".join(traceback.format_exception(error)).rstrip())
    found.__cause__ = found.__context__ = None
    return found.with_traceback(None)


class Engine:
    """The queue, and a worker thread for each device."""

    def __init__(self, devices: Sequence[str] = ("auto",), max_queue: int = 16, max_seconds: float = 900.0) -> None:
        self.max_queue, self.max_seconds = max_queue, max_seconds
        self._changed = threading.Condition()
        self._queue: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._known: OrderedDict[str, Ticket] = OrderedDict()
        self.closing = False
        self._threads = [threading.Thread(target=self._serve, args=(name,), daemon=True) for name in devices]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work, *, name: str = "", id: str | None = None) -> Ticket:
        """Queue a job. Raises Busy where the queue is full, Closing where the server stops."""
        ticket = Ticket(work, name, id)
        with self._changed:
            if self.closing:
                raise Closing("the server stops: try again later")
            if self.full:
                raise Busy(f"{len(self._queue)} jobs wait already: try again later")
            if ticket.id in self._known and not self._known[ticket.id].wait(0):
                raise Refused(f"there is a job {ticket.id!r} already: give it another name")
            ticket.ahead = len(self._queue)
            self._queue.append(ticket)
            self._known[ticket.id] = ticket
            self._known.move_to_end(ticket.id)
            self._forget()
            self._changed.notify()
        return ticket

    def _forget(self) -> None:
        past = [key for key, ticket in self._known.items() if ticket.wait(0)]
        for key in past[: max(0, len(past) - REMEMBERED)]:
            del self._known[key]

    @property
    def full(self) -> bool:
        at_work = sum(not ticket.wait(0) for ticket in self.running)  # a worker that is free takes the next at once
        return len(self._queue) + at_work >= self.max_queue + len(self._threads)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> list[Ticket]:
        """The jobs at work, the oldest first."""
        return list(self._running)

    @property
    def tickets(self) -> list[Ticket]:
        """All jobs that are remembered, the oldest first."""
        with self._changed:
            return list(self._known.values())

    def find(self, id: str) -> Ticket | None:
        """The job of this id, where it is remembered."""
        with self._changed:
            return self._known.get(id)

    def stop(self, ticket: Ticket, why: str = "cancelled") -> None:
        """Stop a job; one that has not begun leaves the queue at once."""
        with self._changed:
            ticket.stop(why)
            waits = ticket in self._queue
            if waits:
                self._queue.remove(ticket)
                self._number()
        if waits:
            ticket.finish("stopped", Stopped(why))

    def close(self, grace: float = 0.0) -> None:
        """Take no more jobs, refuse those that wait, and leave the running ones so many seconds to finish."""
        with self._changed:
            self.closing = True
            waiting, self._queue = list(self._queue), deque()
            self._changed.notify_all()
        for ticket in waiting:
            ticket.finish("stopped", Closing("the server stops: try again later"))
        end = time.monotonic() + grace
        for ticket in self.running:
            if not ticket.wait(max(0.0, end - time.monotonic())):
                ticket.stop("closing")

    def join(self, timeout: float | None = None) -> None:
        """Wait for the workers of a closed engine."""
        for thread in self._threads:
            thread.join(timeout)

    def _number(self) -> None:
        for place, ticket in enumerate(self._queue):
            ticket.ahead = place

    def _wait(self, timeout: float | None) -> bool:
        """Whether there is something to do for a worker."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._queue or self.closing, timeout))

    def _serve(self, device: str) -> None:
        _here.device = device
        while True:
            if not self._wait(IDLE):
                trim()  # the last answers have gone out
                self._wait(None)
            with self._changed:
                if not self._queue and not self.closing:  # another worker has it
                    continue
                if not self._queue:
                    return
                ticket = self._queue.popleft()
                self._number()
                self._running.append(ticket)
            ticket.run(self.max_seconds)
            with self._changed:
                self._running.remove(ticket)
            del ticket
            trim()


def device() -> str:
    """That of the worker which asks; auto, outside of one."""
    return getattr(_here, "device", "auto")
