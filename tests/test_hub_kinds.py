"""Every kind of pipeline through a local cache of the hub gives the answers of its folder."""

import pytest
import tinypipes
import torch
from conftest import seeded
from huggingface_hub import constants
from serving import cache


def answer(prior):
    side = prior.size or 16
    x = torch.randn(1, prior.channels, side, side, generator=seeded())
    if prior.labels is not None:
        prior = prior.labelled(1)
    if prior.text is not None:
        prior = prior.prompted("a dog")
    with torch.no_grad():
        return prior(x, prior.schedule.top(0.6)).x0


@pytest.mark.parametrize("kind", tinypipes.KINDS)
def test_every_kind(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tinypipes.saved(kind, tmp_path / "folder")
    wanted = tinypipes.loaded(folder)
    cache(tmp_path / "hub", "some/pipeline", folder)
    found = tinypipes.loaded("some/pipeline")
    assert found.latent == wanted.latent == (kind in tinypipes.LATENTS)
    assert torch.equal(answer(found), answer(wanted))
    assert answer(found).std() > 0
