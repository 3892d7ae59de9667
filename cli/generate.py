"""`restore generate`: pictures from noise."""

from typing import Annotated

import typer

from restore.cli import common
from restore.cli.command import (
    Augment,
    ClassifierName,
    ClassifierScale,
    Eta,
    Guidance,
    Label,
    NegativePrompt,
    Prompt,
    Then,
    guide,
    load,
)


def generate(
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE|-", help="Where to write; - is standard output (PNG).")
    ] = "generate.png",
    size: Annotated[
        str | None,
        typer.Option(metavar="N|WxH", help="Side, or width and height, in pixels.", show_default="the prior's, or 256"),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="heun, ddim or ddpm.", show_default="heun")
    ] = None,
    eta: Eta = None,
    then: Then = None,
    augment: Augment = None,
    prior: common.PriorName = "photo",
    quality: common.Quality = None,
    steps: common.Steps = None,
    label: Label = None,
    guidance: Guidance = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    classifier: ClassifierName = None,
    classifier_scale: ClassifierScale = None,
    samples: common.Samples = 1,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    tile: common.Tile = "auto",
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> None:  # fmt: skip
    """Sample pictures from a prior, of a class or to a prompt if it takes one; --samples numbers the files."""
    from restore.tasks import Generate, read_size

    beside = guide(classifier)
    request = Generate(
        size=read_size(size), method=method, eta=eta, quality=quality, steps=steps, label=label, guidance=guidance,
        prompt=prompt, negative_prompt=negative_prompt, classifier=beside,
        classifier_scale=classifier_scale, samples=samples, seed=seed, tile=tile, then=then or (),
        augment=None if augment is None else augment / 255,
    )  # fmt: skip
    item = common.Item(None, name="generate")
    common.run(
        [item],
        common.targets([item], output, "generate", samples, overwrite),
        look=lambda item, paths: None,
        load=lambda: load(prior, device, dtype, beside),
        work=lambda _, prior, progress: request.run(prior, progress),
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
