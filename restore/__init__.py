"""Restore and edit photographs with pretrained diffusion priors."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

_HOME = {
    "inpaint": "tasks",
    "upscale": "tasks",
    "deblur": "tasks",
    "denoise": "tasks",
    "colorize": "tasks",
    "repair": "tasks",
    "edit": "tasks",
    "refine": "tasks",
    "translate": "tasks",
    "generate": "tasks",
    "load_prior": "load",
    "load_classifier": "classifier",
    "Classifier": "classifier",
    "Prior": "prior",
    "ConditionalPrior": "conditional",
    "Condition": "conditional",
    "Pred": "prior",
    "Level": "levels",
    "CLEAN": "levels",
    "linear": "levels",
    "scaled_linear": "levels",
    "cosine": "levels",
    "sigmoid": "levels",
    "Karras": "levels",
    "Flow": "levels",
    "travel": "levels",
    "sample": "steps",
    "last": "steps",
    "RestoreError": "errors",
    "InputError": "errors",
    "PriorError": "errors",
    "OutOfMemory": "errors",
    "DivergedError": "errors",
}
__all__ = [*_HOME, "__version__"]

try:
    __version__ = version("restore-diffusion")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `import restore` alone loads neither torch nor diffusers."""
    if name not in _HOME:
        raise AttributeError(f"module 'restore' has no attribute {name!r}")
    return getattr(import_module(f"restore.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
