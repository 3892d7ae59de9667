"""A server in a process of its own, under load, left by its clients, and stopped."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from serve_app import b64, hole, pixels, scene, served
from serve_app import client as app

from restore.serve.engine import IDLE

SOON = 60  # seconds: what waits longer has failed
IMG2IMG = "/sdapi/v1/img2img"


def body(size=(64, 48), **fields):
    """A request to inpaint, in one step where nobody says."""
    return {"init_images": [b64(scene(*size))], "mask": b64(hole(*size)), "steps": 1, **fields}


def endless(**fields):
    """One that takes minutes."""
    return body((256, 192), steps=1000, sampler_name="RePaint", **fields)


def until(condition, timeout=SOON):
    """Wait for it; what it found."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


class Client:
    """Requests to a server, in threads of their own, and what it says of its jobs."""

    def __init__(self, server):
        self.server, self.url = server, server.url
        self.pool = ThreadPoolExecutor(64)

    def post(self, fields, path=IMG2IMG):
        return requests.post(self.url + path, json=fields, timeout=300)

    def start(self, fields, path=IMG2IMG):
        """A request whose answer, or error, is waited for later."""
        return self.pool.submit(self.post, fields, path)

    def job(self, id):
        found = requests.get(f"{self.url}/restore/jobs/{id}", timeout=SOON)
        return found.json() if found.status_code == 200 else {"state": None, "done": 0}

    def reached(self, id, state, done=0):
        """Wait until a job is in this state, and has made so many calls."""
        return until(lambda: (job := self.job(id))["state"] == state and job["done"] >= done and job)

    def running(self, **fields):
        """The answer to come of a job that runs, called `long`."""
        found = self.start(endless(force_task_id="long", **fields))
        self.reached("long", "running", done=2)
        return found


@contextmanager
def serving(prior, *arguments, **options):
    with served(prior, *arguments, **options) as server:
        client = Client(server)
        try:
            yield client
        finally:
            server.process.kill()  # so that no request is left waiting
            client.pool.shutdown()


@pytest.fixture(scope="module")
def client(tiny_folder):
    with serving(tiny_folder) as found:
        yield found
        assert found.server.stop() == 0
        assert not any("Traceback" in line for line in found.server.said), found.server.said


# ---------------------------------------------------------------- fifty at once


def fire(client, fields, count=50):
    """So many requests at once: how many were answered, how many refused."""
    start = threading.Barrier(count)

    def one():
        start.wait()
        return client.post(fields)

    answers = [future.result() for future in [client.pool.submit(one) for _ in range(count)]]
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 429, 503}, codes
    shape = pixels(fields["init_images"][0]).shape
    for answer in answers:
        if answer.status_code == 200:
            assert pixels(answer.json()["images"][0]).shape == shape
        else:
            assert answer.headers["Retry-After"]
            assert "again" in answer.json()["detail"]
    return codes.count(200), codes.count(429)


def memory(client):
    """Bytes that the server's process has, once nothing has run for a moment."""
    until(lambda: not requests.get(f"{client.url}/restore/status", timeout=SOON).json()["running"])
    process, end, found = psutil.Process(client.server.process.pid), time.monotonic() + IDLE + 0.2, []
    while time.monotonic() < end:
        found.append(process.memory_info().rss)
        time.sleep(0.05)
    return min(found)


def flat(client, fields, rounds):
    """The memory after each of some rounds of fifty, in terms of that before them; two rounds warm up."""
    for _ in range(2):
        fire(client, fields)
    before, found = memory(client), []
    for _ in range(rounds):
        answered, refused = fire(client, fields)
        assert (answered >= 17, answered + refused) == (True, 50)
        found.append(memory(client) / before)
    return found


def test_fifty_at_once_and_the_memory_stays(client):
    assert max(flat(client, body(), 3)) < 1.05


def test_files_and_threads_stay_few(client):
    """After fifty requests there is nothing left of them."""
    process = psutil.Process(client.server.process.pid)
    fire(client, body())
    before = process.num_fds()
    for _ in range(2):
        fire(client, body())
    until(lambda: process.num_fds() <= before + 2)
    assert process.num_threads() < 64


def test_larger_pictures_leave_no_memory_behind(client):
    """Each answer has a megabyte: what glibc would keep of them, in every thread apart, is given back."""
    fields = body((512, 384))
    assert max(flat(client, fields, 1)) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 48), (1024, 768)])
def test_many_rounds(tiny_folder, size):
    with serving(tiny_folder) as client:
        found = flat(client, body(size), 8)
        print(size, [round(one, 3) for one in found], memory(client) / 2**20, "MiB")
        assert max(found) < 1.05


@pytest.mark.slow
def test_many_that_leave_keep_no_memory(tiny_folder):
    with serving(tiny_folder) as client:
        found = []
        for k in range(60):
            connection = leaving(client, body((512, 384), steps=1000, force_task_id=f"n{k}"))
            client.reached(f"n{k}", "running", done=1)
            connection.close()
            client.reached(f"n{k}", "stopped")
            if k % 10 == 9:
                found.append(memory(client))
        print([round(one / 2**20) for one in found], "MiB")
        assert max(found) < 1.05 * found[0]


# ---------------------------------------------------------------- clients that leave


def leaving(client, fields, path=IMG2IMG):
    """A connection with a request sent, whose answer nobody reads."""
    parts = urlsplit(client.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SOON)
    connection.request("POST", path, json.dumps(fields), {"Content-Type": "application/json"})
    return connection


def test_a_client_that_leaves_frees_its_job(client):
    connection = leaving(client, endless(force_task_id="left"))
    client.reached("left", "running", done=2)
    following = client.start(body(force_task_id="next"))
    client.reached("next", "queued")
    connection.close()
    assert following.result().status_code == 200
    job = client.job("left")
    assert job["state"] == "stopped"
    assert job["done"] < job["total"]


def test_a_client_that_leaves_the_queue_is_not_waited_for(client):
    running = client.start(endless(force_task_id="runs"))
    client.reached("runs", "running")
    connection = leaving(client, body(force_task_id="waits"))
    client.reached("waits", "queued")
    third = client.start(body(force_task_id="third"))
    assert client.reached("third", "queued")["ahead"] == 1
    connection.close()
    client.reached("waits", "stopped")
    assert client.job("third")["ahead"] == 0
    assert client.job("runs")["state"] == "running"
    requests.delete(f"{client.url}/restore/jobs/runs", timeout=SOON)
    assert third.result().status_code == 200
    assert running.result().status_code == 409


# ---------------------------------------------------------------- stopping jobs


def test_a_job_is_cancelled_by_its_id(client):
    running = client.running()
    waiting = client.start(body(force_task_id="waits"))
    client.reached("waits", "queued")
    for id, answer in (("waits", waiting), ("long", running)):
        assert requests.delete(f"{client.url}/restore/jobs/{id}", timeout=SOON).status_code == 200
        assert answer.result(SOON).status_code == 409
        assert "cancelled" in answer.result().json()["detail"]
        assert client.job(id)["state"] == "stopped"
    assert requests.delete(f"{client.url}/restore/jobs/nope", timeout=SOON).status_code == 404


def test_an_interrupted_job_answers_with_what_it_has(client):
    running = client.running()
    assert 0 < requests.get(f"{client.url}/sdapi/v1/progress", timeout=SOON).json()["progress"] < 1
    assert requests.post(f"{client.url}/sdapi/v1/interrupt", timeout=SOON).status_code == 200
    answer = running.result(SOON)
    assert answer.status_code == 200
    assert json.loads(answer.json()["info"])["interrupted"] is True
    assert [pixels(image).shape for image in answer.json()["images"]] == [(192, 256, 3)]
    assert client.job("long")["state"] == "done"


def test_skip_goes_on_with_the_next_of_three(client):
    """The first is skipped; of the second on, nothing is known of it."""
    fields = body((256, 192), steps=60, n_iter=3, seed=5, sampler_name="DDRM", force_task_id="three")
    running = client.start(fields)
    client.reached("three", "running", done=1)
    assert requests.post(f"{client.url}/sdapi/v1/skip", timeout=SOON).status_code == 200
    answer = running.result(SOON)
    assert answer.status_code == 200
    assert json.loads(answer.json()["info"])["all_seeds"] == [6, 7]
    assert len(answer.json()["images"]) == 2


def test_a_job_that_takes_too_long(tiny_folder):
    with app(tiny_folder, max_seconds=0.5) as client:
        client.desk.models.get(client.desk.prior)  # so that this is not in its time
        answer = client.post(IMG2IMG, json=endless())
        assert (answer.status_code, "fewer steps" in answer.json()["detail"]) == (408, True)


# ---------------------------------------------------------------- stopping the server


@pytest.fixture
def stoppable(tiny_folder, tmp_path):
    """stoppable(...): a server in an empty folder, with an empty one for temporary files, which both stay so."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()

    @contextmanager
    def start(*arguments, **options):
        with serving(tiny_folder, *arguments, cwd=here, TMPDIR=str(temporary), **options) as client:
            yield client
            left = [path for place in (here, temporary) for path in place.rglob("*")]
            assert [path for path in left if "gradio" not in path.parts] == []  # it makes an empty folder of its name
            assert not any(path.is_file() for path in left)
            client.server.reader.join(SOON)
            assert not any("Traceback" in line for line in client.server.said), client.server.said

    return start


def refused(client):
    """Whether nobody listens there any more."""
    parts = urlsplit(client.url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=SOON).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_that_is_stopped_finishes_its_job(stoppable, number):
    with stoppable("--grace", SOON) as client:
        running = client.start(body((256, 192), steps=200, force_task_id="runs"))
        client.reached("runs", "running", done=1)
        waiting = client.start(body(force_task_id="waits"))
        client.reached("waits", "queued")
        client.server.process.send_signal(number)
        answer = waiting.result(SOON)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "the server stops" in answer.json()["detail"]
        until(lambda: refused(client))
        assert not running.done()
        assert running.result(SOON).status_code == 200
        assert pixels(running.result().json()["images"][0]).shape == (192, 256, 3)
        assert client.server.process.wait(SOON) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_server_without_grace_stops_its_job(stoppable, number):
    with stoppable("--grace", 0) as client:
        running = client.running()
        begin = time.monotonic()
        client.server.process.send_signal(number)
        assert running.result(SOON).status_code == 503
        assert "the server stops" in running.result().json()["detail"]
        assert client.server.process.wait(SOON) == 0
        assert time.monotonic() - begin < 10


def test_a_second_signal_ends_the_grace_and_waits_for_no_client(stoppable):
    """A request whose body never ends would hold the server for longer."""
    with stoppable("--grace", 1000) as client:
        running = client.running()
        parts = urlsplit(client.url)
        with socket.create_connection((parts.hostname, parts.port)) as slow:
            head = f"POST {IMG2IMG} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            assert requests.get(f"{client.url}/restore/status", timeout=SOON).ok
            client.server.process.send_signal(signal.SIGTERM)
            until(lambda: refused(client))
            assert client.server.process.poll() is None
            client.server.process.send_signal(signal.SIGTERM)
            assert running.result(SOON).status_code == 503
            assert client.server.process.wait(SOON) == 0


def test_with_a_page_nothing_is_left_behind_either(stoppable):
    with stoppable("--grace", 0, page=True) as client:
        temporary = Path(psutil.Process(client.server.process.pid).environ()["TMPDIR"])
        assert "<html" in requests.get(client.url, timeout=SOON).text
        assert any(name.startswith("restore-page-") for name in os.listdir(temporary))
        running = client.running()
        client.server.process.send_signal(signal.SIGTERM)
        assert running.result(SOON).status_code == 503
        assert client.server.process.wait(SOON) == 0
