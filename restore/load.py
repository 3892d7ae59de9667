"""Names, folders and callables -> Prior; what `restore.classifier` shares of it."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from restore.errors import InputError, PriorError
from restore.levels import Schedule, from_config, linear
from restore.network import Network
from restore.prior import Prior

N = TypeVar("N", bound=Network)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DIFFUSERS_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
PARTS = {"prior": "unet", "classifier": "net"}  # the folder of the network, and the networks of our own
OURS = {"prior": {"UNet": "restore.unet"}, "classifier": {"Encoder": "restore.encoder"}}


def bundled(kind: str = "prior") -> dict[str, Path]:
    """Name -> folder of the priors, or classifiers, that ship with the package."""
    root = Path(str(files("restore.assets"))) / f"{kind}s"
    inside = sorted(root.iterdir()) if root.is_dir() else []
    return {p.name: p for p in inside if (p / PARTS[kind] / "config.json").is_file()}


def find(source: str | Path, kind: str = "prior") -> Path:
    """The folder of a bundled name or of a path. PriorError where there is none, InputError for a file."""
    known = bundled(kind)
    folder = known.get(str(source), Path(source))
    if folder.is_file():
        raise InputError(f"{folder} is a file: give the diffusers folder that it lies in")
    if not folder.is_dir():
        names = ", ".join(known) or "none"
        raise PriorError(f"no {kind} {str(source)!r}: give a bundled name ({names}) or a diffusers folder")
    return folder


def kind_of(source: str | Path) -> str:
    """Whether a bundled name or a folder is a prior or a classifier; where it is neither, or both: a prior."""
    if str(source) in bundled():
        return "prior"
    folder = bundled("classifier").get(str(source), Path(source))
    return "classifier" if (folder / PARTS["classifier"] / "config.json").is_file() else "prior"


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. InputError for a device that is unknown or not there."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError):
        chosen = None
    if chosen is None or chosen.type == "meta":
        raise InputError(f"device {str(device)!r} is not available: choose auto, cpu or cuda")
    return chosen


def _cast(net: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of matrix products once, so that autocast has nothing left to cast in each forward.

    The first and the last convolution stay in float32, as in guided-diffusion: x0 = (x - sigma eps) / alpha
    multiplies their rounding by the noise-to-signal ratio, and colours drift."""
    ends = [getattr(net, name, None) for name in ("conv_in", "conv_out")]
    for module in net.modules():
        if any(module is end for end in ends):
            module.forward = _in_float32(module.forward)
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            module.to(dtype)


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def exact(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return exact


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that a network runs in; `auto` is bf16 where the device has instructions for it. InputError.

    It is never found by timing: the same seed has to give the same picture in every run."""
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
    if dtype == "float16" and device.type == "cpu":
        raise InputError("float16 is for GPUs: choose float32 or bfloat16 on the CPU")
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:  # AMX, or AVX-512 BF16; torch may not tell
        tests = (getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        fast = device.type == "cpu" and any(test() for test in tests)
    return torch.bfloat16 if fast else torch.float32


def settle(found: N, device: torch.device, dtype: torch.dtype) -> N:
    """Move the network to the device in the asked precision."""
    net = found.net.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    found.given = {key: value.to(device) for key, value in found.given.items()}
    found.dtype = dtype
    if dtype != torch.float32:
        _cast(net, dtype)
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a readable JSON file; is the download complete?")
    return found


def parts(folder: Path, kind: str = "prior") -> tuple[Path, dict[str, Any], dict[str, Any] | None, list[str] | None]:
    """(network folder, its configuration, the scheduler's, class names) of a pipeline or bare network folder."""
    part = PARTS[kind]
    inner = folder / part if (folder / part / "config.json").is_file() else folder
    if not (inner / "config.json").is_file():
        other = next((k for k, name in PARTS.items() if (folder / name / "config.json").is_file()), None)
        reason = f"this is a {other}" if other else f"neither config.json nor {part}/config.json"
        raise PriorError(f"{folder}: no diffusers folder of a {kind} ({reason})")
    found = [p / "scheduler_config.json" for p in (folder / "scheduler", folder, inner.parent / "scheduler")]
    settings = next((_read_json(p) for p in found if p.is_file()), None)
    return inner, _read_json(inner / "config.json"), settings, _labels(folder / "labels.json")


def _labels(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: not a JSON list of class names; is the download complete?")
    return names


def network(folder: Path, config: dict[str, Any], kind: str = "prior") -> nn.Module:
    """The network in `folder`, every weight accounted for."""
    import diffusers

    name, ours = config.get("_class_name", ""), OURS[kind]
    home = import_module(ours[name]) if name in ours else diffusers if kind == "prior" else None
    cls = getattr(home, name, None)
    if cls is None or not hasattr(cls, "from_pretrained"):
        where = f" in diffusers {diffusers.__version__}" if kind == "prior" else ""
        raise InputError(f"{folder}: no network class {name!r} of a {kind}{where}")
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity(diffusers.utils.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net, info = cls.from_pretrained(
                folder,
                torch_dtype=torch.float32,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors, torch and diffusers each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        if "size mismatch" in reason:
            reason = reason[reason.index("size mismatch") :][:160]
            raise InputError(f"{folder}: weights and config.json do not belong together: {reason}") from error
        raise InputError(f"{folder}: the weights cannot be read; fetch or copy the folder again ({reason})") from error
    finally:
        diffusers.utils.logging.set_verbosity(level)
    wrong = sorted([*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])])
    if wrong:
        raise InputError(f"{folder}: weights and config.json do not belong together, first at {wrong[0]}")
    return net


def _orientations(folder: Path) -> int:
    """In how many orientations the prior has seen each picture, by the configuration that it was trained with."""
    try:
        data = tomllib.loads((folder / "train.toml").read_text(encoding="utf-8"))["data"]
        return (8 if data["rotate"] else 2) if data["flip"] else 1
    except (OSError, ValueError, KeyError, TypeError):  # another trainer's, or none
        return 1


def _folder(folder: Path, schedule: Schedule | None, predicts: str | None, name: str) -> Prior:
    """A pipeline folder (model_index.json, unet/, scheduler/) or a bare network folder (config.json)."""
    inner, config, settings, labels = parts(folder)
    if settings is None and schedule is None:
        warnings.warn(f"{folder}: no scheduler_config.json; taken as DDPM, linear betas, T=1000", stacklevel=3)
        settings = {"prediction_type": "epsilon", "clip_sample": True}
        schedule = linear(1000)
    settings = settings or {}
    widths = config.get("block_out_channels") or config.get("channels") or (1,)
    if predicts is None:
        scheduler = settings.get("_class_name", "")
        if scheduler.startswith("EDM"):  # its network sees scaled inputs, and answers with a mix of x0 and noise
            raise InputError(f"{folder}: {scheduler} preconditions its network, which is not supported")
        kind = settings.get("prediction_type") or ("flow_prediction" if scheduler.startswith("Flow") else "epsilon")
        if kind not in DIFFUSERS_PREDICTS:
            raise InputError(f"{folder}: unknown prediction_type {kind!r}")
        predicts = DIFFUSERS_PREDICTS[kind]
    classes = config.get("num_class_embeds")
    size = config.get("sample_size")
    nameless = bool(labels) and classes == len(labels) + 1  # the last class stands for 'no label'
    return Prior(
        network(inner, config),
        predicts=predicts,
        schedule=schedule or from_config(settings),
        channels=config.get("in_channels", 3),
        clip=bool(settings.get("clip_sample", False)),
        multiple=2 ** (len(widths) - 1),
        size=max(size) if isinstance(size, list | tuple) else size,
        labels=labels or classes,
        null_label=len(labels) if nameless else None,
        orientations=_orientations(folder),
        name=name,
    )


def load_prior(
    source: str | Path | Prior | Callable[..., Any] = "photo",
    *,
    device: str | torch.device = "auto",
    dtype: str = "auto",
    schedule: Schedule | None = None,
    predicts: str | None = None,
) -> Prior:
    """A prior by name (bundled), from a diffusers folder, or from a callable net(x, t) with its schedule.

    source: `photo` or another bundled name; a folder in the pipeline layout or of one network; a callable, which then
    needs `schedule` (an nn.Module is moved and cast in place); a Prior, which is given back as it is, and takes no
    other option. device: auto, cpu, cuda, cuda:1 ... dtype: auto, float32, bfloat16, float16. schedule, predicts:
    replace what the folder says. Raises PriorError where there is no such prior and InputError for damaged files and
    unknown options.
    """
    if isinstance(source, Prior):
        if schedule is not None or predicts is not None or not (str(device) == dtype == "auto"):
            raise InputError("a Prior is ready as it is: give device, dtype, schedule and predicts to load_prior")
        return source
    if not isinstance(source, str | Path) and not callable(source):
        raise InputError(f"cannot load a prior from {type(source).__name__}: give a name, a folder or a callable")
    chosen = pick_device(device)
    precision = pick_dtype(dtype, chosen)
    if callable(source):
        if schedule is None:
            raise InputError("a callable network needs schedule=, the noise schedule that it was trained on")
        prior = Prior(source, predicts=predicts or "eps", schedule=schedule)
        if isinstance(source, nn.Module):
            return settle(prior, chosen, precision)
        if not (str(device) == dtype == "auto"):
            raise InputError("device and dtype are for networks: a plain function runs on the CPU in float32")
        return prior
    folder = find(source)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
        return settle(_folder(folder, schedule, predicts, str(source)), chosen, precision)


def describe(source: str | Path, kind: str = "prior") -> dict[str, Any]:
    """What `restore priors info` says of a bundled name or a diffusers folder, without reading its weights.

    kind: prior or classifier. Raises PriorError where there is no such thing, InputError where its files cannot be
    read."""
    folder = find(source, kind)
    inner, config, settings, labels = parts(folder, kind)
    settings = settings or {}
    card = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
    header = card.split("---")[1] if card.startswith("---") else ""
    facts = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    title = next((line[2:] for line in card.splitlines() if line.startswith("# ")), folder.name)
    return {
        "name": str(source),
        "kind": kind,
        "title": title,
        "licence": facts.get("license", "unknown"),
        "megabytes": round(sum(p.stat().st_size for p in inner.glob("*.safetensors")) / 1e6, 1),
        "network": config.get("_class_name"),
        "channels": config.get("channels") or config.get("block_out_channels"),
        "size": config.get("sample_size") or "any",
        "predicts": settings.get("prediction_type", "epsilon") if kind == "prior" else None,
        "schedule": settings.get("beta_schedule"),
        "levels": settings.get("num_train_timesteps"),
        "classes": len(labels) if labels else config.get("num_class_embeds") or config.get("classes"),
        "labels": ", ".join(labels) if labels else None,
        "folder": str(folder),
    }
