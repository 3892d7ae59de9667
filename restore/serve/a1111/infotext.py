"""The text that A1111 keeps in a picture: how it was made, to be read again."""

from __future__ import annotations

import re
from typing import Any

_PAIR = re.compile(r'([\w()/.+-][\w ()/.+-]{0,99}+):\s*+("(?:\\.|[^\\"])*+"|[^,]*+)(?:,|$)')
_LONGEST = 20_000  # characters of a line of pairs: what strangers write there may take its square to read


def compose(prompt: str, negative: str, facts: dict[str, Any]) -> str:
    """The prompt, the negative prompt, and a line of `Name: value` pairs."""
    lines = [prompt] if prompt else []
    lines += [f"Negative prompt: {negative}"] if negative else []
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)])


def parse(text: str) -> dict[str, str]:
    """The pairs of an infotext, with the prompts under A1111's names."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last) if len(last) <= _LONGEST else []
    if len(pairs) < 2:
        lines, pairs = [*lines, last], []
    cut = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[cut:]).removeprefix("Negative prompt:").strip()
    return {"Prompt": "\n".join(lines[:cut]).strip(), "Negative prompt": negative, **dict(pairs)}
