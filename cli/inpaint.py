"""`restore inpaint`: repaint what a mask marks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from restore.cli import common
from restore.errors import InputError


def _mask_for(mask: Path | None, item: common.Item) -> Path | None:
    """The mask of one picture: the file itself, or the file of the same name in a folder of masks."""
    if mask is None or not mask.is_dir():
        return mask
    if item.path is None:
        raise InputError(f"{mask} is a folder of masks: standard input has no name to find its mask by")
    found = [p for p in (mask / item.below).glob("*") if p.stem == item.path.stem and p.is_file()]
    if not found:
        raise InputError(f"{item.path}: no mask named {item.path.stem}.* in {mask / item.below}")
    return min(found, key=lambda p: (p.suffix.lower() not in common.SUFFIXES, p.name))


def inpaint(
    images: common.Images,
    mask: Annotated[
        Path | None,
        typer.Option(
            "-m", "--mask", metavar="FILE|DIR", show_default="IMG's transparency",
            help="White = repaint. A folder holds a mask with each picture's name.",
        ),
    ] = None,
    output: common.Output = None,
    prior: common.PriorName = "photo",
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="dpir, ddrm or repaint.", show_default="dpir; ddrm for samples"),
    ] = None,
    steps: common.Steps = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Noise to start from, in (0, 1]; 1 ignores the rough fill.",
            show_default="by hole size",
        ),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(metavar="X", help="ddrm, repaint: fresh noise, 0 to 1.", show_default="by method")
    ] = None,
    jump: Annotated[
        int | None, typer.Option(metavar="N", help="repaint: levels to go back at a time.", show_default=False)
    ] = None,
    resamplings: Annotated[
        int | None, typer.Option(metavar="N", help="repaint: walks of each stretch.", show_default=False)
    ] = None,
    sigma: Annotated[
        float, typer.Option(metavar="X", help="dpir, ddrm: noise in the picture, of 255.", show_default="0")
    ] = 0.0,
    feather: Annotated[int, typer.Option(metavar="N", help="Fade over N pixels inside the mask.")] = 0,
    samples: common.Samples = 1,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    dtype: common.Dtype = "auto",
    tile: common.Tile = "auto",
    overwrite: common.Overwrite = False,
    recursive: common.Recursive = False,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> None:  # fmt: skip
    """Repaint the white part of a mask; every other pixel stays exactly as it is.

    Without -o, IMG.jpg gives IMG-inpaint.jpg beside it, and --samples numbers the answers."""
    from restore.images import encode, format_of
    from restore.load import load_prior
    from restore.mask import opaque_where, read_mask
    from restore.tasks import Inpaint

    request = Inpaint(
        method=method, steps=steps, strength=strength, eta=eta, jump=jump, resamplings=resamplings,
        noise_std=sigma / 255, feather=feather, seed=seed, samples=samples, tile=tile,
    )  # fmt: skip
    if mask is not None and not mask.exists():
        raise InputError(f"{mask} does not exist: check the name")
    items = common.collect(images, recursive)
    plan = common.targets(items, output, "inpaint", samples, overwrite)

    def look(item: common.Item, paths: list[Path | None]) -> tuple[Any, Any]:
        picture, chosen = item.read(), _mask_for(mask, item)
        holes = read_mask(chosen, picture)
        if picture.alpha is not None and paths[0] and format_of(paths[0].suffix) in ("JPEG", "BMP"):
            encode(opaque_where(picture, holes) if chosen is None else picture, paths[0].suffix)  # refused now or never
        return picture, None if chosen is None else holes

    common.run(
        items,
        plan,
        look=look,
        load=lambda: load_prior(prior, device=device, dtype=dtype),
        work=lambda seen, prior, progress: request.run(*seen, prior, progress),
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
