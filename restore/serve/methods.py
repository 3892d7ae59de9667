"""What plugins call samplers and upscalers, and what they are here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from restore.errors import InputError
from restore.prior import Prior
from restore.serve.models import Models
from restore.tasks import Edit, Generate, Inpaint, Options, Refine, Upscale

# A1111's name for each method, by task: the first is taken where a plugin names another
SAMPLERS: dict[str, dict[str, tuple[type[Options], str | None]]] = {
    "inpaint": {
        "Automatic": (Inpaint, None), "DPIR": (Inpaint, "dpir"), "DDRM": (Inpaint, "ddrm"),
        "RePaint": (Inpaint, "repaint"), "SDEdit": (Edit, None),
    },
    "edit": {"Automatic": (Edit, None), "SDEdit": (Edit, None), "ILVR": (Refine, None)},
    "generate": {
        "Automatic": (Generate, None), "Heun": (Generate, "heun"), "DDIM": (Generate, "ddim"),
        "DDPM": (Generate, "ddpm"),
    },
}  # fmt: skip
CONDITIONAL = {"DDIM": "ddim", "DDPM": "ddpm", "Heun": "heun", "DPM++ 2M": "dpm++"}  # of conditional priors
NAMES = list(dict.fromkeys([*(name for names in SAMPLERS.values() for name in names), *CONDITIONAL]))


def sampler(task: str, name: str | int | None, prior: Prior) -> tuple[str, type[Options], str | None]:
    """(name, options, method) of a sampler; of those that are not ours, such as Euler a, the task's own default."""
    if isinstance(name, int):
        name = NAMES[name] if 0 <= name < len(NAMES) else None
    known = {known.lower(): known for known in NAMES}
    name = known.get((name or "").strip().lower(), "Automatic")
    if prior.condition is not None and task == "inpaint":
        return (name, Inpaint, CONDITIONAL[name]) if name in CONDITIONAL else ("Automatic", Inpaint, None)
    name = name if name in SAMPLERS[task] else "Automatic"
    return name, *SAMPLERS[task][name]


def several(prior: Prior) -> str | None:
    """The method of inpainting that has several answers: a conditional prior's own has them."""
    return None if prior.condition is not None else "repaint" if prior.latent else "ddrm"


@dataclass(frozen=True)
class Upscaler:
    """What `upscaler_1` names."""

    name: str
    prior: str | None = None  # None: plain resizing
    method: str | None = None
    scale: int | None = None  # of a conditional prior, the one that it has
    interpolation: str = "bicubic"


def upscalers(models: Models) -> list[Upscaler]:
    """Those that a server offers; the first of a prior is taken where a plugin names one that is not ours."""
    found = [Upscaler("None"), Upscaler("Lanczos"), Upscaler("Nearest", interpolation="nearest-exact")]
    for name in models.names("upscale"):
        scale = models.facts(name).get("scale")
        if scale:
            found.append(Upscaler(name, name, None, int(scale)))
        else:
            found += [Upscaler(f"{name} ({method})", name, method) for method in Upscale.METHODS]
    return found


def upscaler(models: Models, name: str | None) -> tuple[Upscaler, str | None]:
    """The upscaler of a name, and a note where it is another than was asked for."""
    offered = upscalers(models)
    for one in offered:
        if one.name.lower() == (name or "").strip().lower():
            return one, None
    ours = next((one for one in offered if one.prior == name), None)
    default = ours or next((one for one in offered if one.prior), offered[1])
    return default, None if ours or not name else f"there is no upscaler {name[:80]!r}: {default.name} was used"


def told(
    options: Options, prior: Prior, prompt: str, negative: str, guidance: float | None
) -> tuple[Options, str | None]:
    """The options with what a prompt says to this prior, and a note where it says nothing: a class of it by its name,
    or a text if it reads any."""
    prompt, negative = prompt.strip(), negative.strip()
    if not prompt:
        return options, None
    if prior.text is not None:
        pulls = negative or None if guidance != 1 else None
        return replace(options, prompt=prompt, negative_prompt=pulls, guidance=guidance), None
    try:
        prior.index(prompt)
    except InputError as error:
        return options, f"the prompt was not used: {error}"
    return replace(options, label=prompt, guidance=None if prior.unlabelled is None else guidance), None
