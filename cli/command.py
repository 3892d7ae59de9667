"""Picture commands: their own options come first, the flags that all share are added, and one loop does the work."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from restore.cli import common

Label = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="NAME", help="A class of the prior or classifier, by name or number.", show_default=False
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="X", help="Classifier-free guidance to the label or prompt; 1 is none.",
        show_default="1; 7.5 to a prompt",
    ),
]  # fmt: skip
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="What to show: for priors that read text.", show_default=False),
]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", metavar="TEXT", help="What not to show.", show_default=False)
]
ClassifierName = Annotated[
    str | None,
    typer.Option(
        "--classifier", metavar="NAME|PATH", show_default=False,
        help="Pull towards the label by a classifier: a bundled name, a folder or a checkpoint.",
    ),
]  # fmt: skip
ClassifierScale = Annotated[
    float | None,
    typer.Option("--classifier-scale", metavar="X", help="How hard the classifier pulls.", show_default="1"),
]
Eta = Annotated[float | None, typer.Option("--eta", metavar="X", help="Fresh noise, 0 to 1.", show_default="by method")]
Strength = Annotated[
    float | None,
    typer.Option(
        "--strength", metavar="X", help="Noise to start from, in (0, 1]; 1 ignores the first guess.",
        show_default="by method",
    ),
]  # fmt: skip
Consistent = Annotated[
    bool,
    typer.Option(
        "--consistent", help="Of a conditional prior: agree with the picture exactly, where its damage is known."
    ),
]
Then = Annotated[
    list[str] | None,
    typer.Option(
        "--then", metavar="NAME|PATH|ID", show_default=False,
        help="A conditional prior that enlarges the answer; may be repeated (a cascade).",
    ),
]  # fmt: skip
Augment = Annotated[
    float | None,
    typer.Option(
        "--augment", metavar="X", help="Noise, of 255, added to what conditional priors see.",
        show_default="a quarter of what they know, for --then",
    ),
]  # fmt: skip
Mask = Annotated[
    Path | None,
    typer.Option("-m", "--mask", metavar="FILE|DIR", help="White = here. A folder holds a mask with each name."),
]

SHARED: dict[str, tuple[Any, Any]] = {
    "output": (common.Output, None),
    "prior": (common.PriorName, "photo"),
    "quality": (common.Quality, None),
    "steps": (common.Steps, None),
    "label": (Label, None),
    "guidance": (Guidance, None),
    "prompt": (Prompt, None),
    "negative_prompt": (NegativePrompt, None),
    "classifier": (ClassifierName, None),
    "classifier_scale": (ClassifierScale, None),
    "samples": (common.Samples, 1),
    "seed": (common.Seed, 0),
    "device": (common.Device, "auto"),
    "dtype": (common.Dtype, "auto"),
    "tile": (common.Tile, "auto"),
    "overwrite": (common.Overwrite, False),
    "recursive": (common.Recursive, False),
    "as_json": (common.AsJson, False),
    "quiet": (common.Quiet, False),
}


def guide(classifier: str | None) -> Any:
    """The `Guide` of --classifier, not loaded yet."""
    from restore.tasks.conditions import Guide

    return None if classifier is None else Guide(classifier)


def load(prior: str, device: str, dtype: str, guide: Any) -> Any:
    """The prior; the classifier beside it is loaded too, as what is missing stops a run."""
    from restore.load import load_prior

    found = load_prior(prior, device=device, dtype=dtype)
    if guide is not None:
        guide.beside(found)
    return found


@dataclass
class Run:
    """The flags of one call, and the loop over its pictures."""

    images: list[str]
    output: str | None
    prior: str
    quality: str | None
    steps: int | None
    label: str | None
    guidance: float | None
    prompt: str | None
    negative_prompt: str | None
    classifier: str | None
    classifier_scale: float | None
    samples: int
    seed: int
    device: str
    dtype: str
    tile: str
    overwrite: bool
    recursive: bool
    as_json: bool
    quiet: bool

    @property
    def options(self) -> dict[str, Any]:
        """What every task takes."""
        names = ("quality", "steps", "label", "guidance", "prompt", "negative_prompt", "classifier_scale")
        names += ("samples", "seed", "tile")
        return {**{name: getattr(self, name) for name in names}, "classifier": self.guide}

    @functools.cached_property
    def guide(self) -> Any:
        """The classifier, to be loaded once for all pictures."""
        return guide(self.classifier)

    def load(self, prior: str | None = None) -> Any:
        """The prior, on the device and in the precision asked for, and the classifier beside it."""
        return load(prior or self.prior, self.device, self.dtype, self.guide)

    def go(
        self,
        verb: str,
        work: Callable[[Any, Any, Callable[[Any], None] | None], Any],
        *,
        mask: Path | None = None,
        masked: bool = False,
        load: Callable[[], Any] | None = None,
    ) -> None:
        """Collect, check, then `work` on each picture: (picture, prior, progress) -> Result.

        masked: the command takes a mask, and `work` a pair (picture, mask or None); a mask of None is the picture's own
        transparency, if `mask` was asked for, as `inpaint` does."""
        if mask is not None and not mask.exists():
            raise common.InputError(f"{mask} does not exist: check the name")
        items = common.collect(self.images, self.recursive)
        plan = common.targets(items, self.output, verb, self.samples, self.overwrite)

        def look(item: common.Item, paths: list[Path | None]) -> Any:
            picture = item.read()
            if not masked:
                common.writable(picture, paths[0])
                return picture
            from restore.mask import opaque_where, read_mask

            chosen = common.mask_for(mask, item)
            holes = read_mask(chosen, picture) if chosen is not None or verb == "inpaint" else None
            common.writable(opaque_where(picture, holes) if chosen is None and holes is not None else picture, paths[0])
            return picture, None if chosen is None else holes

        common.run(
            items,
            plan,
            look=look,
            load=load or self.load,
            work=work,
            overwrite=self.overwrite,
            as_json=self.as_json,
            quiet=self.quiet,
        )


def picture_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the pictures as arguments and the shared flags; it gets them as `run`, beside its own options.

    An option of its own replaces the shared one of the same name; `run` has that value too."""
    own = {name: p for name, p in inspect.signature(function).parameters.items() if name != "run"}
    shared = {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in SHARED.items()
        if name not in own
    }
    images = inspect.Parameter("images", inspect.Parameter.KEYWORD_ONLY, annotation=common.Images)
    names = ("images", *SHARED)

    @functools.wraps(function)
    def command(**given: Any) -> None:
        run = Run(**{name: given[name] for name in names})
        function(run=run, **{name: given[name] for name in own})

    everything = {"images": images, **own, **shared}
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in everything.values()]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
