"""What is looked at while a conditional prior is trained: numbers, sheets, the best."""

import numpy as np
import pytest
import torch
from conditionals import KINDS, Seen, blurred_noise, config, run, task_of
from PIL import Image
from torch.nn.functional import interpolate
from training import logged, losses, state

from restore import load_prior
from restore.degrade import degrade
from restore.metrics import psnr, ssim
from restore.train.conditional import ConditionalTask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return blurred_noise(tmp_path_factory.mktemp("pictures"))


# ---------------------------------------------------------------- validation, samples, the best


def test_validation_by_hand(folder, tmp_path):
    """val_input is the PSNR of the bicubic enlargement; val_psnr and val_ssim are those of DDIM's answers."""
    settings = config(folder, scale=2, validate={"every": 6, "size": 24})
    run(settings, tmp_path)
    row = [row for row in logged(tmp_path) if "val_loss" in row][-1]
    task = task_of(settings)
    given, answers = [], []
    prior = load_prior(str(tmp_path / "prior"), device="cpu", dtype="float32")
    for i, name in enumerate(["1.png", "3.png"]):
        pixels = np.asarray(Image.open(folder / name))
        height, width = pixels.shape[:2]
        top, left = (height - 24) // 2, (width - 24) // 2
        crop = np.ascontiguousarray(pixels[top : top + 24, left : left + 24])
        image = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
        y = torch.from_numpy(degrade(crop, scale=2)).permute(2, 0, 1)[None].float() / 127.5 - 1
        up = interpolate(y, scale_factor=2, mode="bicubic").clamp(-1, 1) / 2 + 0.5
        given.append(psnr(up, image).item())
        out = task._restored(prior, y, 2, torch.Generator().manual_seed(i))
        answers.append((psnr(out, image).item(), ssim(out, image).item()))
    assert row["val_input"] == pytest.approx(np.mean(given), abs=0.05)
    assert [row["val_psnr"], row["val_ssim"]] == pytest.approx(np.mean(answers, 0).tolist(), rel=2e-3)


@pytest.mark.parametrize("residual", [0.0, 4.0])
def test_answers_are_what_the_network_is_sure_of(folder, residual):
    """A network that says x0 = 0.5, whatever it sees: of a residual that is added to the enlargement."""
    settings = config(folder, scale=2, predicts="x0", condition={"residual": residual})
    task = task_of(settings)
    y = torch.rand(1, 3, 12, 12) - 0.5
    out = task._restored(task.prior(Seen(0.5)), y, 3, torch.Generator().manual_seed(0))
    up = interpolate(y, scale_factor=2, mode="bicubic")
    want = ((0.5 / residual + up) if residual else torch.full_like(up, 0.5)) / 2 + 0.5
    torch.testing.assert_close(out, want.clamp(0, 1), atol=2e-3, rtol=0)


def test_numbers_of_flat_pictures_are_numbers(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (90, 90, 90)).save(tmp_path / "pictures" / f"{i}.png")
    run(config(tmp_path / "pictures", scale=2, validate={"every": 6}), tmp_path / "run")
    row = next(row for row in logged(tmp_path / "run") if "val_loss" in row)
    assert 50 < row["val_input"] <= 100
    assert "Infinity" not in (tmp_path / "run" / "log.jsonl").read_text()


def test_validation_does_not_touch_the_training(folder, tmp_path):
    run(config(folder, scale=2), tmp_path / "a")
    run(config(folder, scale=2, validate={"every": 2}, sample_every=2), tmp_path / "b")
    a, b = state(tmp_path / "a"), state(tmp_path / "b")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_pictures_too_small_for_ssim_are_no_reason_to_stop(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (10, 10)).save(tmp_path / "pictures" / f"{i}.png")
    run(config(tmp_path / "pictures", scale=2, validate={"every": 3}, sample_every=3), tmp_path / "run")
    assert not any("val_loss" in row for row in logged(tmp_path / "run"))


@pytest.mark.parametrize(("name", "size"), [("unet x4", (40, 2)), ("palette", (40, 2)), ("srdiff x2", (40, 2))])
def test_the_sheet(folder, tmp_path, name, size):
    """Five rows - picture, condition, three answers - of as many columns as are held out; gaps of 2."""
    side, count = size
    settings = config(folder, **KINDS[name], sample_every=3)
    run(settings, tmp_path)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["00000003.png", "00000006.png"]
    sheet = Image.open(tmp_path / "samples" / "00000006.png")
    assert sheet.size == (count * (side + 2) + 2, 5 * (side + 2) + 2)
    pixels = np.asarray(sheet)
    picture = np.asarray(Image.open(folder / "1.png"))
    assert (pixels[:2] == 255).all()
    assert (pixels[:, 42:44] == 255).all()
    assert any((pixels[2:42, 2:42] == picture[:, at : at + 40]).all() for at in range(picture.shape[1] - 39))


def test_the_sheet_of_large_pictures_is_of_96_pixels(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, size in enumerate([(120, 130), (100, 99), (20, 20)]):
        Image.new("RGB", size, (i * 50, 20, 30)).save(tmp_path / "pictures" / f"{i}.png")
    settings = config(tmp_path / "pictures", scale=2, data={"holdout": ["0.png", "1.png"]})
    task = task_of(settings)
    assert task.samples(task.net.eval()).shape == (5 * 98 + 2, 2 * 98 + 2, 3)


def test_the_best_is_kept(folder, tmp_path, monkeypatch):
    plain, scores = ConditionalTask.validate, iter([9.0, 11.0, 10.0])
    monkeypatch.setattr(ConditionalTask, "validate", lambda *a: {**plain(*a), "val_psnr": next(scores)})
    exported = {}
    export = ConditionalTask.export

    def remember(self, model, folder, history):
        exported[history[-1]["step"], folder.name] = {k: v.clone() for k, v in model.state_dict().items()}
        export(self, model, folder, history)

    monkeypatch.setattr(ConditionalTask, "export", remember)
    run(config(folder, scale=2, validate={"every": 2}), tmp_path)
    rows = [row for row in logged(tmp_path) if "val_loss" in row]
    assert [row.get("best", False) for row in rows] == [True, True, False]
    best = load_prior(str(tmp_path / "best"), device="cpu", dtype="float32")
    assert best.condition.tasks == ("upscale",)
    weights = next(value for (step, name), value in exported.items() if step == 4)
    assert all(torch.equal(value, weights[name]) for name, value in best.net.state_dict().items())
    last = load_prior(str(tmp_path / "prior"), device="cpu", dtype="float32").net.state_dict()
    assert not all(torch.equal(last[name], weights[name]) for name in weights)
