"""`restore degrade`: make test inputs."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from restore.cli import common
from restore.errors import InputError


def degrade(
    images: common.Images,
    kernel: Annotated[
        str | None,
        typer.Option(
            "-k", "--kernel", metavar="KERNEL", show_default=False,
            help="Blur: gaussian:SIGMA, motion:LENGTH,ANGLE, disk:RADIUS, uniform:SIDE (pixels, degrees), or a picture "
            "of the kernel.",
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("-x", "--scale", metavar="N", help="Shrink to 1/N, N = 2 to 16.", show_default=False)
    ] = None,
    method: Annotated[
        str, typer.Option("--downscale-method", metavar="NAME", help="How to shrink: bicubic or average.")
    ] = "bicubic",
    gray: Annotated[bool, typer.Option("--gray", help="Take the colours away; the channels stay.")] = False,
    sigma: Annotated[float, typer.Option(metavar="X", help="Add Gaussian noise, of 255.", show_default="0")] = 0.0,
    mask: Annotated[
        Path | None,
        typer.Option(
            "-m", "--mask", metavar="FILE|DIR", show_default=False,
            help="White = destroy, to mid gray. A folder holds a mask with each picture's name.",
        ),
    ] = None,
    jpeg: Annotated[
        int | None, typer.Option(metavar="Q", help="Compress as JPEG of quality 1 to 100.", show_default=False)
    ] = None,
    output: common.Output = None,
    seed: common.Seed = 0,
    overwrite: common.Overwrite = False,
    recursive: common.Recursive = False,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> None:  # fmt: skip
    """Damage pictures, to test how well they are restored.

    What is asked for is done in the order of the options. Without -o, IMG.jpg gives IMG-degraded.jpg beside it."""
    from restore.degrade import Degrade

    request = Degrade(
        kernel=kernel, scale=scale, method=method, gray=gray, noise_std=sigma / 255, mask=mask, jpeg=jpeg, seed=seed
    )
    if mask is not None and not mask.exists():
        raise InputError(f"{mask} does not exist: check the name")
    items = common.collect(images, recursive)

    def work(seen: tuple[Any, Path | None], *_: Any) -> Any:
        picture, chosen = seen
        done = replace(request, mask=chosen).run(picture)
        answers = [replace(image, jpeg={"quality": jpeg}) if jpeg else image for image in done.images]  # in a JPEG file
        return done._replace(images=answers)

    common.run(
        items,
        common.targets(items, output, "degraded", 1, overwrite),
        look=lambda item, _: (item.read(), common.mask_for(mask, item)),
        load=None,
        work=work,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
