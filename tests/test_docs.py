"""Every Python block of the README and the guides runs, in order, in one namespace a page."""

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    for name, sample in {"photo.jpg": "kitten-scratched.png", "mask.png": "kitten-mask.png"}.items():
        Image.open(ROOT / "assets/images" / sample).crop((0, 0, 160, 120)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} points to {target}, which is not there"
