"""Prompts: what a text-conditioned network is told of a text (optional extra `text`, which brings transformers)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from restore.errors import InputError
from restore.folders import pretrained, quiet, read_json

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
T5_LENGTH = 256  # tokens that the T5 of Stable Diffusion 3 is given


class Reader(NamedTuple):
    """A tokenizer and the encoder of its tokens."""

    tokenizer: Any
    encoder: nn.Module

    def read(self, text: str, length: int | None = None) -> Any:
        """What the encoder says of a text; a note where the text is longer than it takes."""
        length = length or self.tokenizer.model_max_length
        found = self.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        if len(self.tokenizer(text).input_ids) > length:
            warnings.warn(f"the prompt is longer than {length} tokens: its end is left out", stacklevel=4)
        config, device = self.encoder.config, next(self.encoder.parameters()).device
        told = {"attention_mask": found.attention_mask.to(device)} if getattr(config, "use_attention_mask", 0) else {}
        with torch.no_grad():
            return self.encoder(found.input_ids.to(device), output_hidden_states=True, **told)


class Text:
    """A text -> what the network takes beside x and t, (1, ...) tensors by name, on the encoder's device."""

    def __init__(self, reader: Reader) -> None:
        self.readers = [reader]

    def to(self, device: torch.device) -> None:
        """Move to a device; the precision stays float32."""
        for reader in self.readers:
            reader.encoder.to(device)

    def __call__(self, text: str) -> dict[str, Tensor]:
        """Stable Diffusion 1 and 2: the last layer, normed, of each token."""
        return {"encoder_hidden_states": self.readers[0].read(text)[0]}


class ThreeTexts(Text):
    """Stable Diffusion 3: two CLIP encoders side by side, then a T5, or zeros where it was left out."""

    def __init__(self, first: Reader, second: Reader, third: Reader | None, width: int) -> None:
        self.readers = [first, second, *([third] if third else [])]
        self.width = width

    def __call__(self, text: str) -> dict[str, Tensor]:
        """The last layer but one of each token, and the two pooled projections."""
        length = self.readers[0].tokenizer.model_max_length
        found = [reader.read(text, length) for reader in self.readers[:2]]
        clip = torch.cat([each.hidden_states[-2] for each in found], -1)  # (1,L,D1+D2)
        clip = pad(clip, (0, self.width - clip.shape[-1]))
        if len(self.readers) == 3:
            long = self.readers[2].read(text, T5_LENGTH)[0]  # (1,256,width)
        else:
            long = clip.new_zeros(1, T5_LENGTH, self.width)
        pooled = torch.cat([each.text_embeds for each in found], -1)
        return {"encoder_hidden_states": torch.cat([clip, long], 1), "pooled_projections": pooled}


def reader(folder: Path, ending: str = "") -> Reader:
    """The pair text_encoder, tokenizer of a pipeline folder; those of Stable Diffusion 3 have the endings _2 and _3.

    Raises InputError where transformers is not installed, for encoders of other kinds and for damaged files."""
    inner = folder / f"text_encoder{ending}"
    config = read_json(inner / "config.json")
    name = next(iter(config.get("architectures") or []), "CLIPTextModel")
    if name not in ENCODERS:
        raise InputError(f"{inner}: no support for the text encoder {name}; {', '.join(ENCODERS)} work")
    try:
        import transformers
    except ImportError:
        raise InputError(
            f"{folder}: prompts are read by transformers, which is not installed: pip install 'restore-diffusion[text]'"
        ) from None
    with quiet(transformers.utils.logging):
        cls = getattr(transformers, name)
        encoder, info = pretrained(cls, inner, dtype=torch.float32, output_loading_info=True)
        kind = transformers.T5TokenizerFast if name.startswith("T5") else transformers.CLIPTokenizer
        tokenizer = pretrained(kind, folder / f"tokenizer{ending}")
    if info["missing_keys"]:
        raise InputError(
            f"{inner}: weights and config.json do not belong together, first at {min(info['missing_keys'])}"
        )
    return Reader(tokenizer, encoder.eval().requires_grad_(False))
