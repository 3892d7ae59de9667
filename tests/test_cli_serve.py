"""`restore serve`: its options, and what it says of bad ones."""

import socket
import subprocess
import sys

import pytest
import requests
from command import ENV, run
from serve_app import served

import restore.serve.run
from restore.serve.settings import Settings

# ---------------------------------------------------------------- help


def test_help_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = run("serve", "-h").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    flags = "host port api-key cors-origin prior device dtype keep max-body max-pixels max-queue max-seconds max-steps"
    for flag in f"{flags} max-samples grace no-page quiet".split():
        assert f"--{flag}" in text
    assert "RESTORE_API_KEY" in text
    assert "7860" in text


def test_help_lists_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert any(line.split()[:1] == ["serve"] for line in run("-h").stdout.splitlines())


# ---------------------------------------------------------------- without the extra


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
sys.argv = ["restore", *{args!r}]
from restore.cli import app
app()
"""


def without(names, *args):
    """The command line where these modules are not installed."""
    code = BLOCK.format(names=set(names), args=[str(arg) for arg in args])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, timeout=60)


@pytest.mark.parametrize(
    ("names", "told", "args"),
    [
        (["fastapi"], "fastapi", []),
        (["uvicorn"], "uvicorn", ["--no-page"]),
        (["gradio"], "gradio", []),
        (["multipart", "python_multipart"], "python_multipart", ["--no-page"]),
        (["starlette"], "starlette", ["--no-page"]),
        (["fastapi", "uvicorn", "gradio", "multipart", "python_multipart", "starlette"], "", []),
    ],
    ids=["fastapi", "uvicorn", "gradio", "multipart", "starlette", "all"],
)
def test_without_the_extra_it_says_what_to_install(names, told, args):
    result = without(
        names, "serve", "--port", 0, "--max-steps", 0, *args
    )  # were it all there, it would refuse to start
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"restore: error: restore serve needs {told}")
    assert "pip install 'restore-diffusion[serve]'" in result.stderr
    assert not result.stdout


def test_the_rest_needs_no_extra():
    names = ["fastapi", "uvicorn", "gradio", "multipart", "python_multipart", "starlette", "psutil"]
    assert without(names, "serve", "-h").returncode == 0
    assert without(names, "priors", "list").returncode == 0


def test_without_the_page_there_is_no_need_of_gradio():
    result = without(["gradio"], "serve", "--no-page", "--max-steps", 0)
    assert "max_steps is 0" in result.stderr


# ---------------------------------------------------------------- bad options


@pytest.fixture
def not_served(monkeypatch):
    """No server may start, and no prior be looked for."""

    def fail(*args, **options):
        raise AssertionError("a server was made")

    monkeypatch.delenv("RESTORE_API_KEY", raising=False)
    monkeypatch.setattr(restore.serve.run, "create_app", fail)


BAD = {  # name: (arguments, words of the message)
    "others' address without a key": (["--host", "0.0.0.0"], ["0.0.0.0", "--api-key"]),
    "all addresses of IPv6 without a key": (["--host", "::"], ["::", "--api-key"]),
    "a name without a key": (["--host", "example.org"], ["example.org", "--api-key"]),
    "an empty address": (["--host", ""], ["--api-key"]),
    "an empty key": (["--host", "0.0.0.0", "--api-key", ""], ["--api-key"]),
    "a short key": (["--api-key", "secret"], ["key", "8"]),
    "a key that is not ASCII": (["--api-key", "schlüssel-lang"], ["key", "ASCII"]),
    "a port below 0": (["--port", -1], ["port", "-1"]),
    "a port over 65535": (["--port", 65536], ["port", "65535"]),
    "a port that is no number": (["--port", "http"], ["--port", "integer"]),
    "an origin without a scheme": (["--cors-origin", "www.photopea.com"], ["www.photopea.com", "origin"]),
    "an origin with a path": (["--cors-origin", "https://www.photopea.com/x"], ["photopea.com/x", "origin"]),
    "an origin with a slash": (["--cors-origin", "https://www.photopea.com/"], ["photopea.com/", "origin"]),
    "all origins": (["--cors-origin", "*"], ["'*'", "origin"]),
    "one origin of two": (["--cors-origin", "https://a.org", "--cors-origin", "b"], ["'b'", "origin"]),
    "an unknown device": (["--device", "toaster"], ["toaster", "cpu"]),
    "a second device that is unknown": (["--device", "cpu", "--device", "cuda:99"], ["cuda:99"]),
    "no device": (["--device", ""], ["device"]),
    "an unknown dtype": (["--dtype", "int8"], ["int8", "float32"]),
    "keep 0": (["--keep", 0], ["keep", "0"]),
    "no body": (["--max-body", 0], ["max_body", "0"]),
    "body of nothing": (["--max-body", "nan"], ["max-body"]),
    "endless body": (["--max-body", "inf"], ["max-body"]),
    "negative pixels": (["--max-pixels", -1], ["max_pixels", "-1"]),
    "pixels of nothing": (["--max-pixels", "nan"], ["max-pixels"]),
    "no queue": (["--max-queue", 0], ["max_queue", "0"]),
    "no time": (["--max-seconds", 0], ["max_seconds", "0"]),
    "time of nothing": (["--max-seconds", "nan"], ["max-seconds", "nan"]),
    "no steps": (["--max-steps", 0], ["max_steps", "0"]),
    "half a step": (["--max-steps", 1.5], ["--max-steps", "integer"]),
    "no samples": (["--max-samples", 0], ["max_samples", "0"]),
    "negative grace": (["--grace", -1], ["grace", "-1"]),
    "grace of nothing": (["--grace", "nan"], ["grace", "nan"]),
    "endless grace": (["--grace", "inf"], ["grace", "inf"]),
    "unknown option": (["--magic"], ["--magic", "restore serve -h"]),
    "an argument": (["here"], ["here", "restore serve -h"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_said_in_one_line(name, not_served):
    args, words = BAD[name]
    result = run("serve", "--no-page", *args, code=2)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not result.stdout_bytes


def test_a_prior_that_is_not_there():
    result = run("serve", "--no-page", "--port", 0, "--prior", "nope", code=4)
    assert result.stderr.startswith("restore: error: ")
    assert result.stderr.count("\n") == 1
    assert "'nope'" in result.stderr


@pytest.mark.parametrize("page", ["--page", "--no-page"])
def test_a_port_that_is_taken(page):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", page, "--port", port, code=2)
    assert result.stderr == f"restore: error: cannot listen at 127.0.0.1, port {port}: Address already in use\n"


def test_an_address_of_another_machine():
    result = run("serve", "--no-page", "--host", "192.0.2.1", "--api-key", "long-enough", "--port", 0, code=2)
    assert result.stderr.startswith("restore: error: cannot listen at 192.0.2.1, port 0: ")
    assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------- what the options mean


@pytest.fixture
def settings(monkeypatch):
    """settings(...): what the server is told, where the command line is told so."""
    monkeypatch.delenv("RESTORE_API_KEY", raising=False)

    def told(*args):
        found = []
        monkeypatch.setattr(restore.serve.run, "serve", lambda settings, quiet: found.append((settings, quiet)))
        run("serve", *args)
        return found[0]

    return told


def test_the_defaults_are_those_of_the_settings(settings):
    assert settings() == (Settings(), False)


def test_every_option_arrives(settings):
    found, quiet = settings(
        "--host", "0.0.0.0", "--port", 81, "--api-key", "me:long-enough", "--cors-origin", "https://a.org",
        "--cors-origin", "http://b.org:8080", "--prior", "photo", "--prior", "x/y", "--device", "cpu", "--device",
        "cuda:1", "--dtype", "bfloat16", "--keep", 2, "--max-body", 1.5, "--max-pixels", 0.5, "--max-queue", 5,
        "--max-seconds", 7.5, "--max-steps", 50, "--max-samples", 3, "--grace", 2.5, "--no-page", "-q",
    )  # fmt: skip
    assert quiet
    assert found == Settings(
        host="0.0.0.0", port=81, api_key="me:long-enough", origins=("https://a.org", "http://b.org:8080"),
        priors=("photo", "x/y"), devices=("cpu", "cuda:1"), dtype="bfloat16", keep=2, page=False,
        max_body=3 * 2**19, max_pixels=500_000, max_queue=5, max_seconds=7.5, max_steps=50, max_samples=3, grace=2.5,
    )  # fmt: skip


def test_the_key_may_come_from_the_environment(settings, monkeypatch):
    monkeypatch.setenv("RESTORE_API_KEY", "from-the-environment")
    assert settings("--host", "0.0.0.0")[0].api_key == "from-the-environment"
    assert settings("--api-key", "of-the-option")[0].api_key == "of-the-option"
    assert "from-the-environment" not in run("serve", "-h").stdout
    monkeypatch.setenv("RESTORE_API_KEY", "")
    assert settings()[0].api_key is None


def test_a_server_says_where_it_is_and_asks_for_its_key(tiny_folder):
    with served(tiny_folder, RESTORE_API_KEY="not-a-secret") as server:
        assert requests.get(f"{server.url}/restore/status").status_code == 401
        found = requests.get(f"{server.url}/restore/status", headers={"Authorization": "Bearer not-a-secret"})
        assert found.json()["prior"] == tiny_folder.name
        assert server.stop() == 0
    assert "not-a-secret" not in "".join(server.said)
