"""What is installed: import costs, public names, the contents of the wheel."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from classifying import save_classifier
from conftest import save_tiny

import restore

ROOT = Path(restore.__file__).resolve().parents[1]
CHECKOUT = (ROOT / "pyproject.toml").is_file()
in_checkout = pytest.mark.skipif(not CHECKOUT, reason="needs the source tree")


def python(*args, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    code = "import restore, sys; dir(restore); restore.__version__; restore.InputError; print(sorted(sys.modules))"
    modules = set(ast.literal_eval(python("-c", code)))
    assert not modules & {"torch", "numpy", "diffusers", "cv2", "PIL", "typer"}


def test_torchvision_is_never_imported():
    code = (
        "import sys, restore.tasks, restore.load, restore.unet, restore.train.prior, diffusers\n"
        "from diffusers import UNet2DModel, DDPMScheduler\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] == 'torchvision'))"
    )
    assert python("-c", code).strip() == "[]"


@in_checkout
def test_no_file_imports_torchvision():
    for folder in ("restore", "cli", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0] == "torchvision" for name in names), path


def test_public_names():
    assert all(getattr(restore, name) is not None for name in restore.__all__)
    assert set(restore.__all__) <= set(dir(restore))
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = restore.magic
    space = {}
    exec("from restore import *", space)
    assert {"inpaint", "load_prior", "Prior"} <= set(space)


@in_checkout
def test_declared_dependencies_are_what_is_imported():
    """Every third-party module that the installed code imports is declared; those of the extra `serve` for it alone."""
    names = {"opencv-python-headless": "cv2", "pillow": "PIL"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def modules(lines):
        declared = {line.split(">")[0] for line in lines}
        return {names.get(name, name.replace("-", "_")) for name in declared}

    base, used = modules([*project["dependencies"], *extras["text"]]), {True: set(), False: set()}
    for folder in ("restore", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            serves = "serve" in path.relative_to(ROOT).with_suffix("").parts
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    used[serves] |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    used[serves].add(node.module.split(".")[0])
    known = {*sys.stdlib_module_names, "restore"}
    assert used[False] - known <= base
    assert used[True] - known <= base | modules(extras["serve"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel of a copy, which has a prior and a classifier more, and `site`, where it is unpacked; its
    file names."""
    source, here = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("restore", "cli", "assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    prior = save_tiny(source / "assets" / "priors" / "tiny")
    (prior / "README.md").write_text("---\nlicense: mit\n---\n# tiny: nothing learnt\n")
    (prior / "credits.tsv").write_text("file\tauthor\n")
    save_classifier(source / "assets" / "classifiers" / "tiny")
    command = ["-m", "pip", "--disable-pip-version-check", "wheel", source, "--no-deps", "--no-build-isolation"]
    python(*command, "--no-index", "-q", "-w", here, cwd=here)
    (wheel,) = here.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(here / "site")
        names = archive.namelist()
    return here, names


@in_checkout
def test_wheel_contents(installed):
    _, names = installed
    wanted = {"restore/py.typed", "restore/tasks/inpainting.py", "restore/algorithms/ddrm.py", "restore/train/prior.py"}
    wanted |= {f"restore/cli/{path.name}" for path in (ROOT / "cli").glob("*.py")}
    wanted |= {f"restore/assets/priors/tiny/{name}" for name in ("model_index.json", "README.md", "credits.tsv")}
    wanted |= {"restore/assets/priors/tiny/unet/diffusion_pytorch_model.safetensors"}
    wanted |= {f"restore/assets/classifiers/tiny/{name}" for name in ("net/config.json", "labels.json")}
    wanted |= {"restore/assets/classifiers/tiny/net/diffusion_pytorch_model.safetensors"}
    wanted |= {"restore/assets/priors/tiny/scheduler/scheduler_config.json", "restore/assets/__init__.py"}
    sources = [p for p in (ROOT / "restore").rglob("*.py") if "__pycache__" not in p.parts]
    wanted |= {p.relative_to(ROOT).as_posix() for p in sources}
    data = [p for p in (ROOT / "assets").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted |= {"restore/" + p.relative_to(ROOT).as_posix() for p in data}
    assert wanted <= set(names), sorted(wanted - set(names))
    tops = {name.split("/")[0] for name in names}
    assert {top.removesuffix(".dist-info").split("-")[0] for top in tops} == {"restore", "restore_diffusion"}
    assert not any("/tests/" in name or "__pycache__" in name for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@in_checkout
def test_wheel_works_away_from_the_checkout(installed):
    here, _ = installed
    env = {"PYTHONPATH": str(here / "site")}
    code = "import restore, restore.cli; print(restore.__file__, restore.cli.__file__)"
    assert all(path.startswith(str(here)) for path in python("-c", code, cwd=here, env=env).split())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert python("-m", "restore.cli", "--version", cwd=here, env=env) == f"restore {version}\n"
    rows = json.loads(python("-m", "restore.cli", "priors", "list", "--json", cwd=here, env=env))
    tiny, classifier = (row for row in rows if row["name"] == "tiny")
    assert tiny["folder"].startswith(str(here))
    assert (classifier["kind"], classifier["classes"]) == ("classifier", 3)
    assert tiny["title"] == "tiny: nothing learnt"
