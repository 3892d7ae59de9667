"""The queue before the workers, and the tickets of its jobs: plain functions as work."""

import gc
import itertools
import logging
import threading
import time
import traceback
import weakref
from contextlib import contextmanager

import pytest
import torch

from restore.codec import Pixels
from restore.errors import RestoreError
from restore.jobs import Progress
from restore.serve.desk import Answers, one_by_one
from restore.serve.engine import REMEMBERED, Busy, Closing, Engine, Refused, Stopped, Ticket, TimedOut, device

SOON = 20  # seconds: what waits longer has failed


@contextmanager
def engine(*devices, **options):
    """An engine, closed afterwards."""
    found = Engine(devices or ("cpu",), **options)
    try:
        yield found
    finally:
        found.close()
        found.join(SOON)
        assert not any(thread.is_alive() for thread in found._threads)


def progress(done=1, total=4, x0=None):
    return Progress(done, total, torch.zeros(1, 3, 4, 4) if x0 is None else x0, Pixels())


class Held:
    """Work that goes on, with a report each time round, until it is let go."""

    def __init__(self, answer="held", error=None):
        self.begun, self.let, self.answer, self.error = threading.Event(), threading.Event(), answer, error

    def __call__(self, report):
        self.begun.set()
        for k in itertools.count():
            report(progress(k % 4))
            if self.let.wait(0.005):
                break
        if self.error is not None:
            raise self.error
        return self.answer


def until(condition):
    """Wait for it."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@contextmanager
def busy(**options):
    """An engine whose one worker is held: (engine, what holds it, its ticket)."""
    with engine(**options) as found:
        held = Held()
        ticket = found.submit(held, name="held", id="held")
        assert held.begun.wait(SOON)
        try:
            yield found, held, ticket
        finally:
            held.let.set()


# ---------------------------------------------------------------- the queue


def test_jobs_run_one_at_a_time_in_their_order():
    order, at_work, most = [], [], []

    def work(k, report):
        at_work.append(k)
        most.append(len(at_work))
        order.append(k)
        time.sleep(0.002)
        at_work.remove(k)
        return k * k

    with busy() as (queue, held, first):
        tickets = [queue.submit(lambda report, k=k: work(k, report)) for k in range(8)]
        assert [ticket.ahead for ticket in tickets] == list(range(8))
        assert [ticket.state for ticket in (first, *tickets)] == ["running", *["queued"] * 8]
        assert (queue.waiting, queue.running) == (8, [first])
        held.let.set()
        assert [ticket.result() for ticket in tickets] == [k * k for k in range(8)]
    assert (order, set(most)) == (list(range(8)), {1})
    assert {ticket.state for ticket in (first, *tickets)} == {"done"}
    assert (queue.waiting, queue.running) == (0, [])


def test_what_leaves_the_queue_moves_the_others_up():
    with busy() as (queue, _, _):
        a, b, c = (queue.submit(lambda report: None, name=name) for name in "abc")
        queue.stop(a)
        assert (a.state, b.ahead, c.ahead) == ("stopped", 0, 1)
        assert queue.waiting == 2


def test_those_who_wait_move_up_when_the_next_begins():
    with busy() as (queue, held, _):
        second = Held()
        queue.submit(second)
        third = queue.submit(lambda report: 1)
        assert third.ahead == 1
        held.let.set()
        assert second.begun.wait(SOON)
        assert third.ahead == 0
        second.let.set()


def test_a_full_queue_refuses():
    with busy(max_queue=2) as (queue, held, _):
        waiting = [queue.submit(lambda report: 1) for _ in range(2)]
        with pytest.raises(Busy, match="2 jobs wait already"):
            queue.submit(lambda report: 1)
        assert len(queue.tickets) == 3
        queue.stop(waiting[0])
        again = queue.submit(lambda report: 2)
        held.let.set()
        assert (waiting[1].result(), again.result()) == (1, 2)
        until(lambda: not queue.running)
        assert [queue.submit(lambda report: 3).result() for _ in range(9)] == [3] * 9


def test_free_workers_are_no_part_of_the_queue():
    """Before they wake, as many jobs more than may wait are taken as there are workers."""
    held = [Held() for _ in range(4)]
    with engine("cpu", "cpu:0", max_queue=2) as queue:
        tickets = [queue.submit(one) for one in held]
        with pytest.raises(Busy):
            queue.submit(lambda report: 1)
        for one in held:
            one.let.set()
        assert [ticket.result() for ticket in tickets] == ["held"] * 4


def test_two_devices_work_at_once():
    meeting = threading.Barrier(2, timeout=SOON)

    def work(report):
        meeting.wait()
        return device()

    with engine("cpu", "cuda:7") as queue:
        tickets = [queue.submit(work) for _ in range(2)]
        assert {ticket.result() for ticket in tickets} == {"cpu", "cuda:7"}
    assert device() == "auto"  # outside of a worker


def test_an_id_is_of_one_job_until_that_is_done():
    with busy() as (queue, held, first):
        assert queue.find("held") is first
        with pytest.raises(Refused, match="'held'"):
            queue.submit(lambda report: 1, id="held")
        held.let.set()
        assert first.result() == "held"
        again = queue.submit(lambda report: 2, id="held")
        assert queue.find("held") is again
        assert queue.find("other") is None
        assert again.result() == 2
        assert len({queue.submit(lambda report: 1).id for _ in range(10)}) == 10


def test_the_past_is_forgotten_in_its_order():
    with engine() as queue:
        for k in range(REMEMBERED + 20):
            queue.submit(lambda report: 1, id=str(k)).result()
        assert len(queue.tickets) <= REMEMBERED + 1
        assert queue.find("0") is None
        assert queue.find(str(REMEMBERED + 19))


# ---------------------------------------------------------------- how a job is watched


def test_progress_preview_and_pace():
    seen, go = threading.Event(), threading.Event()

    def work(report):
        report(progress(3, 12, torch.full((1, 3, 4, 4), 0.5)))
        seen.set()
        assert go.wait(SOON)

    with engine() as queue:
        ticket = queue.submit(work, name="img2img", id="mine")
        assert seen.wait(SOON)
        facts = ticket.facts()
        shown = {"id": "mine", "name": "img2img", "state": "running", "done": 3, "total": 12, "ahead": 0}
        assert facts.pop("seconds") >= 0
        assert facts == shown
        assert ticket.preview().shape == (1, 3, 4, 4)
        assert 0 <= float(ticket.preview().min()) <= float(ticket.preview().max()) <= 1
        until(lambda: ticket.left > 0)
        gone = time.monotonic() - ticket._begin
        assert ticket.left == pytest.approx(3 * gone, rel=0.5)
        go.set()
        ticket.result()
        assert ticket.preview() is None  # nothing large is kept
        assert (ticket.left, ticket.facts()["state"]) == (0, "done")
        assert ticket.facts()["seconds"] == round(ticket.seconds, 2)


def test_no_preview_before_there_is_one_nor_of_latents():
    class Latents(Pixels):
        latent = True

    with busy() as (queue, _, ticket):
        queued = queue.submit(lambda report: 1)
        assert queued.preview() is None
        assert queued.left == 0
        until(lambda: ticket.preview() is not None)
    ticket = Ticket(None, "", None)
    ticket.report(progress())
    assert ticket.preview() is not None
    ticket.report(progress()._replace(codec=Latents()))
    assert ticket.preview() is None


# ---------------------------------------------------------------- how a job is stopped


def test_a_running_job_stops_at_its_next_call():
    with busy() as (queue, _, ticket):
        queue.stop(ticket)
        with pytest.raises(Stopped, match="the job was cancelled") as error:
            ticket.result()
        assert (error.value.why, error.value.status, ticket.state) == ("cancelled", 409, "stopped")
        assert queue.submit(lambda report: 5).result() == 5


def test_a_queued_job_never_begins():
    begun = []
    with busy() as (queue, held, _):
        ticket = queue.submit(begun.append)
        queue.stop(ticket)
        assert ticket.wait(0)  # at once, although the worker is held
        with pytest.raises(Stopped):
            ticket.result()
        queue.stop(ticket)  # again: nothing more happens
        held.let.set()
        queue.submit(lambda report: 1).result()
    assert begun == []


def test_a_job_stopped_before_the_worker_has_it_never_begins():
    begun = []
    ticket = Ticket(begun.append, "", None)
    ticket.stop()
    ticket.run(SOON)
    assert (begun, ticket.state) == ([], "stopped")


def test_a_job_that_takes_too_long_is_stopped():
    with engine(max_seconds=0.05) as queue:
        ticket = queue.submit(Held())
        with pytest.raises(TimedOut, match="fewer steps"):
            ticket.result()
        assert ticket.state == "stopped"
        assert ticket.seconds >= 0.05
        assert queue.submit(lambda report: 1).result() == 1


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["skipped", "cancelled"], "cancelled"),
        (["cancelled", "skipped"], "cancelled"),
        (["cancelled", "interrupted"], "cancelled"),
        (["interrupted", "cancelled"], "cancelled"),
        (["interrupted", "closing"], "interrupted"),
        (["cancelled", "closing"], "cancelled"),
        (["skipped", "interrupted"], "interrupted"),
    ],
)
def test_what_is_cancelled_stays_so(asked, found):
    """Another client's skip may not bring back a job that nobody waits for."""
    ticket = Ticket(None, "", None)
    for why in asked:
        ticket.stop(why)
    assert ticket.stopping == found


def several(count, calls=3):
    """Work of so many answers: (work, what holds each call of it)."""
    gate = threading.Semaphore(0)
    reached = []

    class Made:
        def __init__(self, k):
            self.images = [k]

    def make(k, seed, report):
        for call in range(calls):
            reached.append((k, call))
            assert gate.acquire(timeout=SOON)
            report(progress(call + 1, calls))
        return Made(k)

    return lambda report: one_by_one(make, 7, count, report), gate, reached


def test_skip_goes_on_with_the_next_answer():
    work, gate, reached = several(3)
    with engine() as queue:
        ticket = queue.submit(work)
        gate.release(4)
        until(lambda: reached[-1:] == [(1, 1)])
        assert (ticket.done, ticket.total) == (4, 9)
        ticket.stop("skipped")
        gate.release(9)
        answers = ticket.result()
    assert isinstance(answers, Answers)
    assert (answers.pictures, answers.seeds, answers.interrupted) == ([0, 2], [7, 9], False)
    assert (1, 2) not in reached
    assert ticket.stopping is None


def test_interrupt_answers_with_what_there_is():
    work, gate, reached = several(3)
    with engine() as queue:
        ticket = queue.submit(work)
        gate.release(4)
        until(lambda: reached[-1:] == [(1, 1)])
        ticket.stop("interrupted")
        gate.release(9)
        answers = ticket.result()
    assert (answers.pictures, answers.seeds, answers.interrupted) == ([0], [7], True)
    assert reached[-1] == (1, 1)
    assert ticket.state == "done"


def test_cancel_keeps_nothing():
    work, gate, reached = several(3)
    with engine() as queue:
        ticket = queue.submit(work)
        gate.release(4)
        until(lambda: reached[-1:] == [(1, 1)])
        queue.stop(ticket)
        gate.release(9)
        with pytest.raises(Stopped, match="cancelled"):
            ticket.result()


# ---------------------------------------------------------------- the server stops


def test_close_leaves_the_running_job_its_grace():
    with busy() as (queue, held, first):
        waiting = queue.submit(lambda report: 1)
        closing = threading.Thread(target=queue.close, args=(SOON,))
        closing.start()
        with pytest.raises(Closing, match="try again later") as error:
            waiting.result()
        assert error.value.status == 503
        with pytest.raises(Closing):
            queue.submit(lambda report: 1)
        assert first.state == "running"
        assert first.stopping is None
        held.let.set()
        closing.join(SOON)
        assert first.result() == "held"


def test_close_stops_the_running_job_after_its_grace():
    with busy() as (queue, _, first):
        begin = time.monotonic()
        queue.close(0.1)
        assert 0.1 <= time.monotonic() - begin < SOON
        with pytest.raises(Closing, match="the server stops"):
            first.result()
        assert first.state == "stopped"


def test_closing_again_ends_the_grace():
    with busy() as (queue, _, first):
        closing = threading.Thread(target=queue.close, args=(1000,))
        closing.start()
        until(lambda: queue.closing)
        queue.close()
        closing.join(SOON)
        assert not closing.is_alive()
        assert first.state == "stopped"


def test_the_grace_is_of_all_jobs_together():
    held = [Held(), Held()]
    with engine("cpu", "cpu:0") as queue:
        tickets = [queue.submit(one) for one in held]
        assert all(one.begun.wait(SOON) for one in held)
        begin = time.monotonic()
        queue.close(0.3)
        assert time.monotonic() - begin < 0.5
        assert all(ticket.wait(SOON) for ticket in tickets)


def test_threads_end():
    before = threading.active_count()
    with engine("cpu", "cpu:0", "cpu:1") as queue:
        assert threading.active_count() == before + 3
        queue.submit(lambda report: 1).result()
    assert threading.active_count() == before


# ---------------------------------------------------------------- work that fails


class Odd(BaseException):
    pass


ERRORS = [ValueError("no"), RestoreError("no"), MemoryError("no"), StopIteration("no"), KeyError("no")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_the_work_raises_is_told_and_the_worker_goes_on(error):
    with engine() as queue:
        ticket = queue.submit(Held(error=error))
        ticket._work.let.set()
        with pytest.raises(type(error), match="no") as found:
            ticket.result()
        assert found.value is error
        assert ticket.state == "failed"
        assert queue.submit(lambda report: 1).result() == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Odd])
def test_what_would_end_the_process_is_an_error_as_any_other(kind):
    def work(report):
        raise kind("oh")

    with engine() as queue:
        ticket = queue.submit(work)
        with pytest.raises(RuntimeError, match=f"{kind.__name__}: oh"):
            ticket.result()
        assert (ticket.state, queue.submit(lambda report: 1).result()) == ("failed", 1)


def test_the_log_can_say_where_it_failed():
    def inner():
        raise ValueError("here")

    with engine() as queue, pytest.raises(ValueError, match="here") as error:
        queue.submit(lambda report: inner()).result()
    assert "in inner" in "".join(traceback.format_exception(error.value))


# ---------------------------------------------------------------- what is kept


class Large:
    """A picture."""


def gone(reference):
    """Whether nothing has it, once the worker has come round."""
    end = time.monotonic() + 5
    while reference() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    return reference() is None


def closing_over(large, then):
    """Work that has it in a closure and in a local, as jobs have their pictures."""

    def work(report):
        mine = large
        report(progress())
        return then(mine)

    return work


def fails(large):
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("no") from error


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("then", [lambda large: None, fails], ids=["done", "failed"])
def test_what_a_job_was_given_is_freed(then, taken):
    """Although its ticket is remembered, and whether anybody took what it answered."""
    with engine() as queue:
        large = Large()
        reference = weakref.ref(large)
        ticket = queue.submit(closing_over(large, then))
        del large
        assert ticket.wait(SOON)
        if taken and ticket.state == "failed":
            with pytest.raises(ValueError, match="no"):
                ticket.result()
        elif taken:
            ticket.result()
        assert gone(reference)
        assert queue.find(ticket.id) is ticket


def test_what_a_stopped_job_was_given_is_freed():
    with engine() as queue:
        large = Large()
        reference, held = weakref.ref(large), Held()
        ticket = queue.submit(closing_over(large, lambda large: held(ticket.report)))
        del large
        assert held.begun.wait(SOON)
        queue.stop(ticket)
        assert ticket.wait(SOON)
        assert gone(reference)


def test_the_preview_is_freed():
    with engine() as queue:
        x0 = torch.zeros(1, 3, 4, 4)
        reference = weakref.ref(x0)
        box = [x0]
        del x0
        ticket = queue.submit(lambda report: report(progress(x0=box.pop())))
        ticket.result()
        assert gone(reference)


def test_the_answer_is_its_takers_alone():
    with engine() as queue:
        ticket = queue.submit(lambda report: Large())
        answer = ticket.result()
        reference = weakref.ref(answer)
        assert isinstance(answer, Large)
        del answer
        assert gone(reference)


@pytest.mark.parametrize("late", [True, False])
def test_an_answer_that_nobody_wants_is_freed(late):
    """Cancelled after the last call of the network, or when it was finished but not fetched."""
    references, ready, go = [], threading.Event(), threading.Event()

    def work(report):
        answer = Large()
        references.append(weakref.ref(answer))
        ready.set()
        assert go.wait(SOON)
        return answer

    with engine() as queue:
        ticket = queue.submit(work)
        assert ready.wait(SOON)
        if late:
            go.set()
            assert ticket.wait(SOON)
        queue.stop(ticket)
        go.set()
        assert ticket.wait(SOON)
        assert gone(references[0])
        with pytest.raises(Stopped, match="cancelled"):
            ticket.result()


# ---------------------------------------------------------------- who is told


def test_those_who_wait_are_told_once():
    with busy() as (queue, held, ticket):
        told = []
        ticket.then(lambda: told.append(("before", ticket.state)))
        held.let.set()
        assert ticket.wait(SOON)
        until(lambda: told)
        ticket.then(lambda: told.append(("after", ticket.state)))
        assert told == [("before", "done"), ("after", "done")]
        queued = queue.submit(Held())
        queued.then(lambda: told.append("stopped"))
        queue.stop(queued)
        assert queued.wait(SOON)
        until(lambda: told[-1] == "stopped")


def test_told_once_even_where_both_come_at_once():
    """`then` comes when the job has just finished, but has not told those who asked before."""

    class Slow(threading.Event):
        def set(self):
            super().set()
            ready.set()
            time.sleep(0.02)

    for _ in range(5):
        ready, told = threading.Event(), []
        ticket = Ticket(lambda report: 1, "", None)
        ticket._finished = Slow()
        worker = threading.Thread(target=ticket.run, args=(SOON,))
        worker.start()
        assert ready.wait(SOON)
        ticket.then(lambda: told.append(1))  # noqa: B023 - called in this round
        worker.join(SOON)
        assert told == [1]


def test_told_once_in_many_races():
    counts = []
    with engine(max_queue=300) as queue:
        for _ in range(300):
            told = []
            ticket = queue.submit(lambda report: 1)
            ticket.then(lambda told=told: told.append(1))
            counts.append((ticket, told))
        for ticket, told in counts:
            assert ticket.wait(SOON)
            until(lambda told=told: told)
    assert {len(told) for _, told in counts} == {1}


def test_one_who_cannot_be_told_does_not_end_the_worker(caplog):
    """As where the loop of the asker is closed."""

    def fail():
        raise RuntimeError("Event loop is closed")

    with busy() as (queue, held, ticket), caplog.at_level(logging.WARNING):
        told = []
        ticket.then(fail)
        ticket.then(lambda: told.append(1))
        held.let.set()
        assert ticket.result() == "held"
        until(lambda: told)
        assert ticket.state == "done"
        waiting = queue.submit(lambda report: 2)
        assert waiting.result() == 2
    assert "Event loop is closed" in caplog.text
