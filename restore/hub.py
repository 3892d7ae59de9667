"""Networks of the hub: what of them is on this machine, in huggingface_hub's own cache, and how the rest gets there."""

from __future__ import annotations

import errno
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from restore.errors import PriorError
from restore.fetch import Fetched, online, read_json, sha256

ID = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?P<folder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?", re.ASCII)
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}  # parts of pipelines that no prior needs
WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)(-\d+-of-\d+)?\.(?P<format>safetensors|bin)")
INDEX = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)\.(?P<format>safetensors|bin)\.index\.json")


class Repo(NamedTuple):
    """A repository of the hub, at a revision (a branch, a tag, a commit), and a folder in it."""

    id: str
    revision: str = "main"
    folder: str = ""

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        return f"{self.id}{folder}" + (f"@{self.revision}" if self.revision != "main" else "")


def parse(text: str) -> Repo | None:
    """`owner/name`, `owner/name/folder`, and either with `@revision`; None for what cannot be an id."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    found = ID.fullmatch(text)
    parts = re.split("[/@]", text)
    if found is None or any(part.strip(".") == "" for part in parts):
        return None
    try:
        validate_repo_id(f"{found['owner']}/{found['name']}")
    except HFValidationError:
        return None
    return Repo(f"{found['owner']}/{found['name']}", found["revision"] or "main", found["folder"].lstrip("/"))


def snapshot(repo: Repo) -> Path | None:
    """The folder of the repository's revision in the cache, whole or not; None where there is none."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"models--{repo.id.replace('/', '--')}"
    ref = root / "refs" / repo.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else repo.revision
    folder = root / "snapshots" / commit
    return folder if folder.is_dir() else None


def cached(repo: Repo) -> Path | None:
    """The folder of a network that is on this machine; None where it is not. PriorError where only a part of it is."""
    root = snapshot(repo)
    if root is None:
        return None
    lacks = missing(root, repo.folder)
    if lacks:
        what = f"{repo} is on this machine in part only ({lacks} is not there)"
        raise PriorError(f"{what}: run `restore priors download {repo}` to complete it")
    return root / repo.folder


def is_here(repo: Repo) -> bool:
    """Whether all of it is on this machine."""
    root = snapshot(repo)
    return root is not None and missing(root, repo.folder) is None


def missing(root: Path, folder: str = "") -> str | None:
    """What a prior or a classifier needs and the folder lacks, by name; None where it is whole."""
    if folder:
        return _lacks(root / folder, f"{folder}/")
    if not (root / "model_index.json").is_file():
        inner = next((part for part in ("unet", "transformer", "net") if (root / part / "config.json").is_file()), "")
        return _lacks(root / inner, f"{inner}/" if inner else "")
    index = read_json(root / "model_index.json")
    if (root / "config.json").is_file():  # an old layout: one network, and its scheduler beside it
        told = any((root / place / "scheduler_config.json").is_file() for place in ("", "scheduler"))
        return _lacks(root, "") or (None if told or "scheduler" not in index else "scheduler_config.json")
    for name, value in index.items():
        if name.startswith("_") or name in UNUSED or not isinstance(value, list) or not any(value):
            continue
        part = root / name
        if name == "scheduler":
            lacks = None if (part / "scheduler_config.json").is_file() else f"{name}/scheduler_config.json"
        elif name.startswith("tokenizer"):
            lacks = None if part.is_dir() and any(p.is_file() for p in part.iterdir()) else f"{name}/"
        else:
            lacks = _lacks(part, f"{name}/")
        if lacks:
            return lacks
    return None if index else "model_index.json"


def _lacks(part: Path, name: str) -> str | None:
    """What one network's folder lacks: its configuration, its weights, or one file of them."""
    if not (part / "config.json").is_file():
        return f"{name}config.json"
    files = [p for p in part.iterdir() if p.is_file()]  # not: links to what is not there yet
    if any(found and not found[2] for found in (WEIGHTS.fullmatch(p.name) for p in files)):
        return None
    index = next((p for p in files if INDEX.fullmatch(p.name)), None)
    if index is None:
        return f"{name}diffusion_pytorch_model.safetensors"
    wanted = read_json(index).get("weight_map", {}).values()
    gone = next((file for file in sorted(set(wanted)) if not (part / file).is_file()), None if wanted else index.name)
    return gone and f"{name}{gone}"


def needed(files: Iterable[str], folder: str = "") -> list[str]:
    """Which files of a repository a prior needs: configurations, words, the card, and weights in one format.

    safetensors where both formats are there; no half precision, no other variants, no other frameworks."""
    chosen: list[str] = []
    weights: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(files):
        place, _, name = file.rpartition("/")
        if place.count("/") or place in UNUSED or (folder and place not in ("", "scheduler", folder)):
            continue
        found = WEIGHTS.fullmatch(name) or INDEX.fullmatch(name)
        if found:
            if not folder or place == folder:
                weights[place][found["format"]].append(file)
        elif name.endswith((".json", ".txt", "tokenizer.model")):
            if not name.endswith(".index.json"):
                chosen.append(file)
        elif not place and (name == "README.md" or name.upper().startswith("LICENSE")):
            chosen.append(file)
    for formats in weights.values():
        chosen += formats.get("safetensors") or formats["bin"]
    return chosen


def download(repo: Repo, *, offline: bool = False, quiet: bool = False) -> Fetched:
    """The folder of a network of the hub: what of it is not on this machine is fetched, or resumed.

    offline: fetch nothing, as with HF_HUB_OFFLINE. Raises PriorError, in one line, for whatever keeps it away."""
    if is_here(repo):
        return Fetched(cached(repo), None, new=False)
    online(str(repo), offline)
    import huggingface_hub
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    try:
        facts = huggingface_hub.HfApi().model_info(repo.id, revision=repo.revision)
        files = needed((file.rfilename for file in facts.siblings or []), repo.folder)
        if not any(WEIGHTS.fullmatch(file.rpartition("/")[2]) for file in files):
            raise PriorError(f"{repo} holds no weights in the layout of diffusers")
        root = Path(huggingface_hub.snapshot_download(repo.id, revision=repo.revision, allow_patterns=files))
        _check(repo, root)
    except PriorError:
        raise
    except Exception as error:  # requests, httpx and the hub each have their own
        raise PriorError(_reason(repo, error)) from error
    finally:
        if not silent:
            enable_progress_bars()
    lacks = missing(root, repo.folder)
    if lacks:
        raise PriorError(f"{repo} is not whole on the hub itself: {lacks} is not there")
    return Fetched(root / repo.folder, None, new=True)


def _check(repo: Repo, root: Path) -> None:
    """Compare weights with their sha256, by which the hub names large files. PriorError, and they are removed."""
    for path in (p.resolve() for p in root.rglob("*") if WEIGHTS.fullmatch(p.name) and p.is_file()):
        if re.fullmatch("[0-9a-f]{64}", path.name) and sha256(path) != path.name:
            path.unlink()
            raise PriorError(f"{repo}: what came is not what the hub has (its sha256 differs): run this again")


def _reason(repo: Repo, error: Exception) -> str:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo.id}"
    code = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"{repo.id} is gated: accept its licence at {page}, then log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo.id} has no revision {repo.revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo.id} is not on the hub, or private: check the name, or log in with `hf auth login`"
    if code in (401, 403):
        return f"{repo.id} may not be fetched ({code}): accept its licence at {page}, then log in with `hf auth login`"
    if code is not None:
        return f"the hub answers {code} for {repo.id}: try again later"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return f"no space left in {constants.HF_HUB_CACHE}: make some, and run this again to go on"
    if isinstance(error, OSError) and error.filename:
        return f"cannot write {error.filename}: {error.strerror}"
    text = " ".join(str(error.__cause__ or error).split())[:120] or type(error).__name__
    return f"{repo.id} cannot be fetched from {constants.ENDPOINT} ({text}): run this again to go on"
