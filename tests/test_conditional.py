"""Conditional priors: what they see, how they are asked, what they refuse."""

import json

import pytest
import torch
from conditioned import GAIN, SHIFT, STD, exact
from torch.nn.functional import interpolate

from restore.codec import Pixels
from restore.conditional import Condition, ConditionalPrior, Residual
from restore.continuous import Continuous
from restore.errors import InputError
from restore.levels import linear
from restore.operators import Mask, downscale, grayscale
from restore.prior import Pred
from restore.steps import ddim, last, once, sample
from restore.wrappers import consistent, tiles


def picture(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def drawn(told, size, steps=50, seed=0):
    levels = told.levels(steps)
    x = torch.randn(*size, generator=torch.Generator().manual_seed(seed))
    return last(sample(told, x, levels, move=once(ddim, eta=1.0, rng=torch.Generator().manual_seed(seed + 1))))


# ---------------------------------------------------------------- what is seen


def test_what_is_seen_is_the_bicubic_enlargement():
    y = picture(2, 3, 5, 6)
    seen = Condition(("upscale",), scale=4).shown(y)
    assert torch.equal(seen, interpolate(y, (20, 24), mode="bicubic").clamp(-1, 1))
    assert torch.equal(Condition(("colorize", "repair")).shown(y), y)


def test_noise_is_told_as_a_plane():
    y = picture(2, 3, 5, 6)
    seen = Condition(("upscale",), scale=2, augment=0.5).shown(y, torch.tensor([0.1, 0.4]))
    assert seen.shape == (2, 4, 10, 12)
    assert torch.equal(seen[:, 3], torch.tensor([0.1, 0.4])[:, None, None].expand(2, 10, 12))
    assert torch.equal(seen[:, :3], Condition(("upscale",), scale=2).shown(y))


def test_a_small_picture_survives_being_repeated():
    told, y = Condition(("upscale",), scale=4, low_res=True), picture(2, 3, 5, 6)
    shown = told.shown(y)
    assert shown.shape[-2:] == (20, 24)
    assert torch.equal(told.small(shown), y)
    assert torch.equal(told.small(shown.flip(-1)), y.flip(-1))
    assert torch.equal(told.small(shown[..., 4:12, 8:]), y[..., 1:3, 2:])


def test_added_noise_has_the_told_deviation():
    prior = exact(augment=0.5, scale=2)
    y = torch.zeros(1, 3, 128, 128)
    plain, noisy = prior.seeing(y, 0.3), prior.seeing(y, 0.3, torch.Generator().manual_seed(0))
    assert plain.seen[:, :3].abs().max() == 0
    assert noisy.seen[:, 3].unique().tolist() == pytest.approx([0.3])
    added = noisy.seen[:, :3, ::2, ::2]  # bicubic, at half a pixel beside: 0.797 of the variance
    assert 0.15 < added.std() < 0.3
    with pytest.raises(InputError, match=r"trained on at most 63\.75"):
        prior.seeing(y, 0.6)
    with pytest.raises(InputError, match="trained on none"):
        exact().seeing(y, 0.1)


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize("noise_level", [0.0, 1.0, 1000.0])
def test_samples_have_the_mean_and_deviation_of_the_answers(noise_level):
    y = picture(1, 3, 8, 8)
    told = exact(noise_level).seeing(y.expand(20, -1, -1, -1))
    found = drawn(told, (20, 3, 32, 32), steps=1000)
    mean = GAIN * interpolate(y, (32, 32), mode="bicubic").clamp(-1, 1) + SHIFT
    error = (found.mean(0, keepdim=True) - mean).std()
    assert error == pytest.approx(STD / 20**0.5, rel=0.05)  # that of a mean of twenty
    assert (found.mean(0, keepdim=True) - mean).mean().abs() < 0.005
    assert found.std(0).square().mean().sqrt() == pytest.approx(STD, rel=0.03)


def test_a_residual_is_added_to_the_enlargement():
    y = picture(1, 3, 8, 8) / 2
    told = exact(residual=2.0).seeing(y)
    assert isinstance(told.codec, Residual)
    base = interpolate(y, (32, 32), mode="bicubic")
    found = Pixels().encode(told.codec.decode(drawn(told, (1, 3, 32, 32), steps=1000)))
    assert (found - base).mean() == pytest.approx(SHIFT / 2, abs=0.01)
    assert (found - base).std() == pytest.approx(STD / 2, rel=0.05)
    image = torch.rand(1, 3, 32, 32)
    assert torch.allclose(told.codec.decode(told.codec.encode(image)), image, atol=1e-6)
    assert told.codec.std(0.1) == pytest.approx(0.4)
    assert torch.equal(told.guess, torch.zeros_like(base))


def test_tiles_see_their_own_part():
    told = exact().seeing(picture(1, 3, 40, 48))
    x, level = torch.randn(1, 3, 160, 192), told.levels(5)[1]
    whole = told(x, level)
    for parts in (told(told.beside(x), level), tiles(told, 64, 16)(told.beside(x), level)):
        assert torch.allclose(parts.x0, whole.x0, atol=1e-5)
        assert torch.allclose(parts.eps, whole.eps, atol=1e-5)


def test_without_its_picture():
    told = exact(dropout=True).seeing(picture(1, 3, 8, 8))
    x, level = torch.randn(1, 3, 32, 32), told.levels(5)[1]
    blank = exact().seeing(torch.zeros(1, 3, 8, 8))
    assert torch.equal(told.blinded(x, level).x0, blank(x, level).x0)
    with pytest.raises(InputError, match="trained with the picture always"):
        exact().blinded  # noqa: B018


class Features(torch.nn.Module):
    """Counts how often its encoder is asked."""

    def __init__(self):
        super().__init__()
        self.encoded = 0

    def features(self, low_res):
        self.encoded += 1
        return low_res * 2

    def forward(self, x, t, low_res=None, features=None):
        features = low_res * 2 if features is None else features
        return x - features.repeat_interleave(4, -1).repeat_interleave(4, -2)


def test_an_encoder_is_asked_once():
    net = Features()
    prior = ConditionalPrior(net, Condition(("upscale",), scale=4, low_res=True), schedule=linear(1000))
    y = picture(1, 3, 8, 8)
    told = prior.seeing(y)
    x, levels = torch.randn(1, 3, 32, 32), prior.levels(4)
    for level in levels[:-1]:
        wanted = x - 2 * y.repeat_interleave(4, -1).repeat_interleave(4, -2)
        assert torch.allclose(told(x, level).eps, wanted, atol=1e-6)
        assert torch.allclose(told(told.beside(x), level).eps, wanted, atol=1e-6)
    assert net.encoded == 1
    prior.seeing(y + 0.1)(x, levels[0])
    assert net.encoded == 2


# ---------------------------------------------------------------- consistency


@pytest.mark.parametrize("op", [downscale(4, (32, 32)), grayscale(), Mask(torch.ones(1, 1, 32, 32).tril())])
def test_consistent_answers_measure_as_the_picture(op):
    truth, other = picture(1, 3, 32, 32, seed=1), picture(1, 3, 32, 32, seed=2)
    y, level = op.A(truth), linear(1000).levels(4)[0]
    pred = consistent(lambda x, level: Pred(other, torch.zeros_like(x)), op, y)(truth, level)
    assert torch.allclose(op.A(pred.x0), y, atol=1e-5)
    unseen = (pred.x0 - other) - op.pinv(op.A(pred.x0 - other))  # what A does not see stays
    assert unseen.abs().max() < 1e-5
    assert torch.allclose(level.alpha * pred.x0 + level.sigma * pred.eps, truth, atol=1e-5)


# ---------------------------------------------------------------- continuous levels


def test_the_noise_level_is_told():
    table, told = linear(1000), Continuous(linear(1000), 10.0)
    for plain, level in zip(table.levels(7)[:-1], told.levels(7)[:-1], strict=True):
        assert level[1:] == plain[1:]
        assert level.t == pytest.approx(10 * plain.alpha)
        again = told.at(level.t)
        assert again.alpha == pytest.approx(level.alpha)
        assert again.sigma == pytest.approx(level.sigma, abs=1e-6)
    assert told.levels(7)[-1] == table.levels(7)[-1]
    assert told.at_ratio(0.5).ratio == pytest.approx(0.5)
    assert told.top(0.3).ratio == pytest.approx(table.top(0.3).ratio)


# ---------------------------------------------------------------- the file, and what is refused


def test_the_file_says_it_all(tmp_path):
    told = Condition(("upscale",), 4, "average", 2.0, 0.5, True, False, 1.0)
    told.write(tmp_path)
    assert Condition.read(tmp_path) == told
    assert json.loads((tmp_path / "condition.json").read_text())["residual"] == 2.0
    assert Condition.read(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not the condition"),
        ("[]", "not the condition"),
        ('{"tasks": ["fly"]}', "not fly"),
        ('{"tasks": []}', "not none"),
        ('{"scale": 4}', "tasks"),
        ('{"tasks": ["colorize"], "scale": 4}', "do not go together"),
        ('{"tasks": ["upscale"]}', "do not go together"),
        ('{"tasks": ["upscale"], "scale": 4, "colour": 1}', "'colour'"),
        ('{"tasks": ["upscale"], "scale": 4, "low_res": true, "augment": 1}', "not with low_res"),
    ],
)
def test_other_files_are_refused(text, words, tmp_path):
    (tmp_path / "condition.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        Condition.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_condition_of_the_wrong_size_is_refused():
    prior = exact()
    level = prior.levels(2)[0]
    with pytest.raises(InputError, match="ask what `seeing"):
        prior(torch.zeros(1, 3, 32, 32), level)
    with pytest.raises(InputError, match="x is 32 x 24, and its condition makes 32 x 32"):
        prior.seeing(torch.zeros(1, 3, 8, 8))(torch.zeros(1, 3, 24, 32), level)
