"""Well-known networks that restore can use: where they are, what they are good for, under which licence. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
SDEDIT = "https://image-editing-test-12345.s3-us-west-2.amazonaws.com/checkpoints/"
DRIVE = "https://drive.google.com/file/d/"


@dataclass(frozen=True)
class Entry:
    """One network of the table; None where a fact is not known, or where any will do (`size`)."""

    name: str  # what --prior takes
    good_for: str  # in at most 24 letters
    licence: str | None  # of the weights
    megabytes: float | None  # of the weights that a prior needs, in float32
    size: int | None  # side of the pictures that it was trained on
    repo: str | None = None  # the hub's id, of a folder
    file: str | None = None  # the name of a checkpoint file
    url: str | None = None  # from where that file can be fetched
    sha256: str | None = None  # of that file
    page: str | None = None  # where its makers write about it
    note: str | None = None
    kind: str = "prior"
    classes: int | None = None

    @property
    def origin(self) -> str | None:
        """Where it comes from: an address."""
        return f"https://huggingface.co/{self.repo}" if self.repo else self.url or self.page


def _ddpm(name: str, good_for: str, megabytes: float = 455, size: int = 256) -> Entry:
    """DDPM (Ho et al. 2020) in pixels, as Google gives it on the hub."""
    return Entry(name, good_for, "apache-2.0", megabytes, size, repo=f"google/{name}")


def _openai(name: str, good_for: str, megabytes: float | None, size: int, **facts: str | int) -> Entry:
    """A file of guided-diffusion (Dhariwal and Nichol 2021)."""
    given = {
        "file": f"{name}.pt", "url": f"{OPENAI}{name}.pt", "page": "https://github.com/openai/guided-diffusion",
        "note": "the licence is that of the repository; its model card asks for use in research only",
    }  # fmt: skip
    return Entry(name, good_for, "mit", megabytes, size, **{**given, **facts})


def _by_hand(name: str, good_for: str, megabytes: float | None, page: str, note: str) -> Entry:
    """A file that lies behind a page for browsers."""
    return Entry(name, good_for, None, megabytes, 256, file=f"{name}.pt", page=page, note=note)


def _sdedit(name: str, good_for: str, megabytes: float | None) -> Entry:
    """A file of the code of SDEdit, in the layout of DDIM, that DDRM uses too."""
    return Entry(
        name, good_for, None, megabytes, 256, file=f"{name}.ckpt", url=f"{SDEDIT}{name}.ckpt",
        page="https://github.com/ermongroup/SDEdit", note="users report that the address refuses to answer (403)",
    )  # fmt: skip


TABLE: tuple[Entry, ...] = (
    _ddpm("ddpm-celebahq-256", "faces"),
    _ddpm("ddpm-ema-celebahq-256", "faces"),
    _ddpm("ddpm-church-256", "churches"),
    _ddpm("ddpm-ema-church-256", "churches"),
    _ddpm("ddpm-bedroom-256", "bedrooms"),
    _ddpm("ddpm-ema-bedroom-256", "bedrooms"),
    _ddpm("ddpm-cat-256", "cats"),
    _ddpm("ddpm-ema-cat-256", "cats"),
    _ddpm("ddpm-cifar10-32", "tiny pictures, tests", 143, 32),
    Entry("ldm-celebahq-256", "faces, latent", "apache-2.0", 1321, 256, repo="CompVis/ldm-celebahq-256"),
    Entry(
        "DiT-XL-2-256", "1000 classes, latent", "cc-by-nc-4.0", 3335, 256, repo="facebook/DiT-XL-2-256", classes=1000,
    ),
    Entry(
        "stable-diffusion-v1-5", "anything, by a prompt", "creativeml-openrail-m", 4270, 512,
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    Entry(
        "stable-diffusion-2-1-base", "anything, by a prompt", "openrail++", 5155, 512,
        repo="stabilityai/stable-diffusion-2-1-base",
    ),
    Entry(
        "stable-diffusion-2-1", "anything, by a prompt", "openrail++", 5155, 768,
        repo="stabilityai/stable-diffusion-2-1",
    ),
    _openai(
        "256x256_diffusion_uncond", "photographs of anything", 2211.3, 256,
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    _openai("64x64_diffusion", "1000 classes", 1183.6, 64, classes=1000),
    _openai("128x128_diffusion", "1000 classes", 1686.1, 128, classes=1000),
    _openai("256x256_diffusion", "1000 classes", 2215.4, 256, classes=1000),
    _openai("512x512_diffusion", "1000 classes", 2236.0, 512, classes=1000),
    _openai("64_256_upsampler", "64 px to 256, 1000 cl.", None, 256, classes=1000),
    _openai("128_512_upsampler", "128 px to 512, 1000 cl.", None, 512, classes=1000),
    _openai("lsun_bedroom", "bedrooms", 2211.3, 256),
    _openai("lsun_cat", "cats", 2211.3, 256),
    _openai("lsun_horse", "horses", 2211.3, 256),
    _openai("lsun_horse_nodropout", "horses", 2211.3, 256),
    _sdedit("celeba_hq", "faces", 454.7),
    _sdedit("bedroom", "bedrooms", None),
    _sdedit("church_outdoor", "churches", None),
    _by_hand(
        "ffhq_10m", "faces", 374.3, f"{DRIVE}117Y6Z6-Hg6TMZVIXMmgYbpZy7QvTXign",
        "ILVR's network, by github.com/jychoi118/ilvr_adm; DPS and DiffPIR use it too",
    ),
    _by_hand(
        "afhq_dog_4m", "dogs", None, f"{DRIVE}14OG_o3aa8Hxmfu36IIRyOgRwEP6ngLdo",
        "ILVR's network, by github.com/jychoi118/ilvr_adm",
    ),
    _by_hand(
        "ffhq_p2", "faces", None, f"{DRIVE}1nlCPBqOqSeqAQ8F4noThbnmr4okriwTc",
        "trained with P2 weighting, by github.com/jychoi118/P2-weighting",
    ),
    _by_hand(
        "celebahq_p2", "faces", None, f"{DRIVE}1ag8JnvKGKo6L6avO_dTFEBNWJo2jZIDF",
        "trained with P2 weighting, by github.com/jychoi118/P2-weighting",
    ),
    _openai("64x64_classifier", "1000 classes", 261.8, 64, kind="classifier", classes=1000),
    _openai("128x128_classifier", "1000 classes", 170.3, 128, kind="classifier", classes=1000),
    _openai("256x256_classifier", "1000 classes", 216.4, 256, kind="classifier", classes=1000),
    _openai("512x512_classifier", "1000 classes", 217.8, 512, kind="classifier", classes=1000),
)  # fmt: skip


def entry(name: str) -> Entry | None:
    """The network of this name, hub id, file name or address; None where the table has none."""
    return next((e for e in TABLE if name and name in (e.name, e.repo, e.file, e.url)), None)
