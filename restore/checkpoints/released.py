"""Released checkpoints, by name or sha256: what their tensors do not tell, as their repositories state it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple


class Known(NamedTuple):
    """A released file."""

    family: str
    title: str
    licence: str | None
    flags: dict[str, Any]


def _guided(title: str, size: int, licence: str | None = "mit", **flags: Any) -> Known:
    common = {"use_new_attention_order": False, "noise_schedule": "linear", "diffusion_steps": 1000}
    return Known("guided-diffusion", title, licence, {"image_size": size, **common, **flags})


def _ddim(title: str, size: int = 256) -> Known:
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_diffusion_timesteps": 1000}
    return Known("DDIM", title, None, {"image_size": size, **betas})


SMALL = {"use_new_attention_order": True, "noise_schedule": "cosine"}  # the networks of 64 px
FFHQ = {"num_heads": 4, "num_head_channels": 64}
KNOWN = {
    "64x64_diffusion": _guided("ImageNet by class, 64 px (ADM)", 64, num_head_channels=64, **SMALL),
    "128x128_diffusion": _guided("ImageNet by class, 128 px (ADM)", 128, num_heads=4),
    "256x256_diffusion": _guided("ImageNet by class, 256 px (ADM)", 256, num_head_channels=64),
    "256x256_diffusion_uncond": _guided("ImageNet, 256 px (ADM)", 256, num_head_channels=64),
    "512x512_diffusion": _guided("ImageNet by class, 512 px (ADM)", 512, num_head_channels=64),
    "64_256_upsampler": _guided("ImageNet by class, 64 to 256 px (ADM)", 256, num_heads=4),
    "128_512_upsampler": _guided("ImageNet by class, 128 to 512 px (ADM)", 512, num_head_channels=64),
    "64x64_classifier": _guided(
        "Classifier of ImageNet, 64 px", 64, num_head_channels=64, num_res_blocks=4, noise_schedule="cosine"
    ),
    "128x128_classifier": _guided("Classifier of ImageNet, 128 px", 128, num_head_channels=64, num_res_blocks=2),
    "256x256_classifier": _guided("Classifier of ImageNet, 256 px", 256, num_head_channels=64, num_res_blocks=2),
    "512x512_classifier": _guided("Classifier of ImageNet, 512 px", 512, num_head_channels=64, num_res_blocks=2),
    "lsun_bedroom": _guided("Bedrooms, 256 px (ADM)", 256, num_head_channels=64),
    "lsun_cat": _guided("Cats, 256 px (ADM)", 256, num_head_channels=64),
    "lsun_horse": _guided("Horses, 256 px (ADM)", 256, num_head_channels=64),
    "lsun_horse_nodropout": _guided("Horses, 256 px (ADM)", 256, num_head_channels=64),
    "ffhq_10m": _guided("Faces, 256 px (ILVR, P2)", 256, None, **FFHQ),
    "ilvr_p2_ffhq_10m": _guided("Faces, 256 px (ILVR, P2)", 256, None, **FFHQ),
    "ffhq_p2": _guided("Faces, 256 px (P2)", 256, None, **FFHQ),
    "celebahq_p2": _guided("Faces of celebrities, 256 px (P2)", 256, None, **FFHQ),
    "afhq_dog_4m": _guided("Dogs, 256 px (ILVR)", 256, None, **FFHQ),
    "celeba_hq": _ddim("Faces of celebrities, 256 px (SDEdit, DDRM)"),
    "celeba_hq_ckpt": _ddim("Faces of celebrities, 256 px (SDEdit, DDRM)"),
    "bedroom": _ddim("Bedrooms, 256 px (DDIM)"),
    "cat": _ddim("Cats, 256 px (DDIM)"),
    "church_outdoor": _ddim("Churches, 256 px (DDIM)"),
}
SHA256 = {"a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1": "256x256_diffusion_uncond"}
SIZES = range(2_100_000_000, 2_400_000_000)  # bytes that a file of SHA256 may have: others are not worth the reading


def known(path: Path) -> Known | None:
    """What the table says of a file, by its name, else by its sha256."""
    found = KNOWN.get(path.stem)
    if found is None and path.stat().st_size in SIZES:
        with path.open("rb") as file:
            found = KNOWN.get(SHA256.get(hashlib.file_digest(file, "sha256").hexdigest(), ""))
    return found
