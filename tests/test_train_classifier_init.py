"""A classifier that begins with the way down of a prior."""

import pytest
import torch
from conftest import normal, save_tiny
from test_train_classifier import folder, settings, train  # noqa: F401 - a fixture
from test_train_loop import logged, state

from restore.encoder import Encoder
from restore.errors import InputError, PriorError
from restore.levels import cosine, linear
from restore.load import load_prior
from restore.train.classifier import start_from

SMALL = {"channels": (8, 16), "layers": (1, 2), "time_channels": 16, "norm": "pixel"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def features(net, run, x):
    """What its deepest blocks say."""
    deep = getattr(net, "mid_blocks", None) or net.blocks[-1]
    seen = []
    handle = deep[-1].register_forward_hook(lambda module, given, out: seen.append(out))
    run(x)
    handle.remove()
    return seen[0]


@torch.no_grad()
@pytest.mark.parametrize("classes", [None, 4])
def test_it_sees_what_the_prior_sees(tmp_path, classes):
    """At every time; a prior with classes is told of none."""
    source = save_tiny(tmp_path / "tiny", num_class_embeds=classes)
    if classes:
        (source / "labels.json").write_text('["cat", "dog", "owl"]')
    prior, net = load_prior(source, device="cpu", dtype="float32"), Encoder(classes=5, **SMALL).eval()
    start_from(net, str(source), cosine())
    for t in (0.0, 300.0, 999.0):
        x = normal(2, 3, 16, 24).float()
        wanted = features(prior.net, lambda x, t=t: prior.answer(x, t), x)
        torch.testing.assert_close(features(net, lambda x, t=t: net(x, t), x), wanted)
    assert not net.head.weight.any()


def test_what_does_not_fit_is_named(tiny_folder, tmp_path):
    def start(source=tiny_folder, schedule=None, **network):
        start_from(Encoder(**{**SMALL, **network}), str(source), schedule or cosine())

    start()
    for match, options in (
        ("another noise table", {"schedule": linear()}),
        ("another noise table", {"schedule": cosine(10)}),
        ('another way down, which differs first at .*, and it needs norm = "pixel"', {"norm": "group"}),
        ("another way down, which differs first at blocks.0.1", {"layers": 2}),
        ("another way down, which differs first at blocks.1.1", {"layers": 1}),
        ("layers of other shapes", {"channels": (8, 24)}),
    ):
        with pytest.raises(InputError, match=match):
            start(**options)
    with pytest.raises(PriorError, match="no prior 'nowhere'"):
        start("nowhere")


def test_a_training_begins_there(folder, tmp_path):  # noqa: F811
    source = save_tiny(tmp_path / "tiny")
    config = settings(folder, network=dict(SMALL), steps=1, lr=1e-9, init=str(source))
    config.schedule = COSINE
    train(config, tmp_path / "run")
    begun = state(tmp_path / "run")["net.blocks.1.0.conv1.weight"]
    wanted = load_prior(source, device="cpu", dtype="float32").net.mid_blocks[0].conv1.weight
    torch.testing.assert_close(begun, wanted, atol=1e-6, rtol=0)
    assert f"* begins with the weights of the prior `{source}`" in (tmp_path / "run/classifier/README.md").read_text()
    config.train.steps = 3
    train(config, tmp_path / "run")
    assert [row["step"] for row in logged(tmp_path / "run") if "loss" in row] == [1, 2, 3]
    config.schedule = {}
    with pytest.raises(InputError, match="another noise table"):
        train(config, tmp_path / "other")
