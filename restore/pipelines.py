"""A folder in the layout of diffusers -> Prior: a pipeline, or one network with its scheduler."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from restore.codec import Codec, Pixels
from restore.conditional import Condition, ConditionalPrior
from restore.continuous import Continuous
from restore.errors import InputError
from restore.folders import CODECS, TRANSFORMER, network, orientations, parts, quiet, read_json
from restore.levels import Schedule, Table, from_config, linear
from restore.prior import Prior, Text

DIFFUSERS_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
READS = ("UNet2DConditionModel", "SD3Transformer2DModel")  # networks that are told a text
DIT = ("DiTTransformer2DModel", "Transformer2DModel")  # squares alone; the second is its name in older folders
NETWORKS = ("UNet", "UNet2DModel", "SR3UNet", "SRDiff", *READS, *DIT)
WIDTHS = ("block_out_channels", "channel_mults", "dim_mults", "channels")  # one for each scale, by the network
EXTRAS = {  # conditions of a UNet2DConditionModel that nothing here can give
    "addition_embed_type": "sizes and a pooled text beside the prompt, as Stable Diffusion XL does",
    "class_embed_type": "an embedding in the place of a class",
    "encoder_hid_dim_type": "an embedding of an image or a text of another encoder",
    "time_cond_proj_dim": "its guidance, as latent consistency models do",
}


class Named(nn.Module):
    """A network of diffusers that takes the time by name, not as its second argument."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, **given: Tensor) -> Any:
        return self.net(hidden_states=x, timestep=t, **given)


def pipeline(folder: Path, schedule: Schedule | None, predicts: str | None, name: str) -> Prior:
    """A pipeline folder (model_index.json, unet/ or transformer/, scheduler/ and what else it has), or a bare network
    folder (config.json). Raises PriorError where there is no network, InputError for one that cannot be a prior."""
    check_network(folder)
    inner, config, settings, labels = parts(folder)
    whole = inner != folder or (inner.parent / "model_index.json").is_file()
    root = inner.parent if whole else folder  # of the pipeline
    check_index(root)
    kind = config.get("_class_name", "")
    check_conditions(inner, kind, config)
    if settings is None and schedule is None:
        warnings.warn(f"{folder}: no scheduler_config.json; taken as DDPM, linear betas, T=1000", stacklevel=3)
        settings = {"prediction_type": "epsilon", "clip_sample": True}
        schedule = linear(1000)
    settings = completed(settings or {})
    predicts = predicts or prediction(folder, settings)
    if settings.get("thresholding"):
        raise InputError(f"{folder}: its scheduler clips by dynamic thresholding, which is not supported")
    told = Condition.read(root)
    codec = Pixels() if told else codec_of(root, inner, config)
    text = text_of(root, config) if kind in READS else None
    labels, null = classes(root, kind, config, labels)
    size = config.get("sample_size")
    net = network(inner, config)
    options = {
        "predicts": predicts,
        "schedule": schedule or from_config(settings),
        "codec": codec,
        "clip": clipping(settings),
        "multiple": multiple(config),
        "size": max(size) if isinstance(size, list | tuple) else size,
        "labels": labels,
        "null_label": null,
        "orientations": orientations(folder),
        "name": name,
    }
    if told:
        return conditional(net, told, config, options, folder)
    return Prior(
        Named(net) if kind == "SD3Transformer2DModel" else net,
        channels=config.get("in_channels", 3),
        text=text,
        fixed=kind in DIT,
        **options,
    )


def conditional(
    net: nn.Module, told: Condition, config: dict[str, Any], options: dict[str, Any], folder: Path
) -> ConditionalPrior:
    """A prior that sees a picture. Raises InputError where the network does not take what condition.json says."""
    taken, wanted = config.get("in_channels", 3), 3 + told.channels
    if taken != wanted:
        raise InputError(f"{folder}: condition.json makes {wanted} channels, and the network takes {taken}")
    schedule = options["schedule"]
    if told.noise_level:
        if not isinstance(schedule, Table):
            raise InputError(f"{folder}: a network that is told the noise level needs a scheduler with a noise table")
        options["schedule"] = Continuous(schedule, told.noise_level)
    options["multiple"] = math.lcm(options["multiple"], told.scale)
    return ConditionalPrior(net, told, **options)


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration with the defaults of its class where the file says nothing, as diffusers reads it."""
    import diffusers

    cls = getattr(diffusers, settings.get("_class_name", ""), None)
    if not hasattr(cls, "from_config"):
        return settings
    with quiet(diffusers.utils.logging):
        return {**settings, **cls.from_config(settings).config}


def prediction(folder: Path, settings: dict[str, Any]) -> str:
    """What the network predicts, by its scheduler. Raises InputError for what a Prior cannot turn into (x0, eps)."""
    scheduler = settings.get("_class_name", "")
    if scheduler.startswith("EDM"):  # its network sees scaled inputs, and answers with a mix of x0 and noise
        raise InputError(f"{folder}: {scheduler} preconditions its network, which is not supported")
    kind = settings.get("prediction_type") or ("flow_prediction" if scheduler.startswith("Flow") else "epsilon")
    if kind not in DIFFUSERS_PREDICTS:
        raise InputError(f"{folder}: unknown prediction_type {kind!r}")
    return DIFFUSERS_PREDICTS[kind]


def clipping(settings: dict[str, Any]) -> bool | float:
    """How far x0 may be from 0, by the scheduler's configuration; False where it is not clipped."""
    return float(settings.get("clip_sample_range", 1.0)) if settings.get("clip_sample") else False


def multiple(config: dict[str, Any]) -> int:
    """What the network wants sides divisible by, in model pixels: its patch, or as often as it halves them."""
    if "patch_size" in config:
        return config["patch_size"]
    widths = next((config[name] for name in WIDTHS if isinstance(config.get(name), list | tuple)), (1,))
    return 2 ** (len(widths) - 1)


def classes(folder: Path, kind: str, config: dict[str, Any], labels: list[str] | None) -> tuple[Any, int | None]:
    """(the classes' names or their number, None without classes; the one that stands for no class)."""
    if kind in DIT:  # as many as it says, and one more for none; the names are in the pipeline's index
        count = config.get("num_embeds_ada_norm") or 1000
        index = folder / "model_index.json"
        names = read_json(index).get("id2label") if index.is_file() else None
        named = isinstance(names, dict) and len(names) == count and all(str(i) in names for i in range(count))
        return [str(names[str(i)]) for i in range(count)] if named else count, count
    count = config.get("num_class_embeds")
    nameless = bool(labels) and count == len(labels) + 1  # the last class stands for 'no label'
    return labels or count, len(labels) if nameless else None


def codec_of(root: Path, inner: Path, config: dict[str, Any]) -> Codec:
    """The codec of the pipeline `root`, whose network lies in `inner`. Raises InputError where it has none and needs
    one, and where its latents are not what the network takes."""
    taken, kind = config.get("in_channels", 3), config.get("_class_name")
    home = next((root / name for name in CODECS if (root / name / "config.json").is_file()), None)
    if home is None:
        if kind in ("SD3Transformer2DModel", *DIT) or (taken != 3 and root != inner):
            names = " or ".join(f"{name}/" for name in CODECS)
            raise InputError(f"{inner}: {kind} takes {taken} channels, latents, and there is no autoencoder, {names}")
        return Pixels()
    from restore.latents import Latents

    found = read_json(home / "config.json")
    if found.get("_class_name") not in CODECS.values():
        known = " and ".join(CODECS.values())
        raise InputError(f"{home}: no support for the autoencoder {found.get('_class_name')}; {known} work")
    # a VQModel whose file says nothing, as in CompVis/ldm-celebahq-256, was used without a scale: the default of its
    # class is Stable Diffusion's, and spoils the pictures (huggingface/diffusers issue 6725)
    scaling = found.get("scaling_factor", 1.0) if found["_class_name"] == "VQModel" else None
    codec = Latents.of(network(home, found, "codec"), scaling)
    if taken != codec.channels:
        more = "it is shown a picture or a mask too, to inpaint or edit" if taken > codec.channels else ""
        shown = more or "the two do not belong together"
        raise InputError(f"{inner}: {kind} takes {taken} channels, and the latents have {codec.channels}: {shown}")
    return codec


def text_of(folder: Path, config: dict[str, Any]) -> Text:
    """What reads the prompts of a pipeline. Raises InputError where there is no text encoder."""
    from restore.text import Text, ThreeTexts, reader

    kind = config["_class_name"]
    names = ["", "_2"] if kind == "SD3Transformer2DModel" else [""]
    missing = [f"text_encoder{n}/" for n in names if not (folder / f"text_encoder{n}" / "config.json").is_file()]
    if missing:
        raise InputError(f"{folder}: {kind} is told a text, and there is no {' and no '.join(missing)} beside it")
    if len(names) == 1:
        return Text(reader(folder))
    third = reader(folder, "_3") if (folder / "text_encoder_3" / "config.json").is_file() else None
    return ThreeTexts(reader(folder), reader(folder, "_2"), third, config["joint_attention_dim"])


# ---------------------------------------------------------------- what is refused, before any weights are read


def check_network(folder: Path) -> None:
    """Refuse the folder of an autoencoder or a text encoder, which is no prior by itself, naming what it is."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    name = str(config.get("_class_name") or "")
    if name.startswith("Autoencoder") or name == "VQModel":
        raise InputError(f"{folder}: this is an autoencoder ({name}) alone: give the folder of its whole pipeline")
    if config.get("architectures") and not name:
        raise InputError(f"{folder}: this is {config['architectures'][0]} of transformers, not a denoiser")


def check_index(folder: Path) -> None:
    """Refuse a pipeline whose model_index.json lists a part that is not there."""
    if not (folder / "model_index.json").is_file() or (folder / "config.json").is_file():
        return  # no pipeline, or one network with its scheduler beside it, as google/ddpm-celebahq-256 has it
    index = read_json(folder / "model_index.json")
    listed = [name for name, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and kind[0]]
    needed = ("unet", TRANSFORMER, "scheduler", *CODECS, "text_encoder", "tokenizer")
    for name in (name for name in listed if name.startswith(needed)):
        if not (folder / name).is_dir():
            raise InputError(f"{folder}: model_index.json lists {name}/, which is not there; is the download complete?")


def check_conditions(inner: Path, kind: str, config: dict[str, Any]) -> None:
    """Refuse a network of a class that is not known here, or that needs conditions that nothing here can give."""
    import diffusers

    if kind and kind not in NETWORKS and hasattr(diffusers, kind):
        raise InputError(f"{inner}: no support for the network {kind}; these work: {', '.join(NETWORKS)}")
    for key, what in EXTRAS.items():
        if config.get(key) is not None:
            raise InputError(f"{inner}: the network wants {what} ({key} = {config[key]!r}), which is not supported")
    if kind == "Transformer2DModel" and config.get("norm_type") != "ada_norm_zero":
        raise InputError(f"{inner}: of Transformer2DModel only DiT's kind is supported (norm_type ada_norm_zero)")
