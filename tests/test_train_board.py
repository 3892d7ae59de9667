"""The log for TensorBoard: each step once, over kills and resumptions."""

import sys

import pytest
from training import logged, noise_pictures, settings, train

from restore.errors import InputError
from restore.train.loop import Loop

pytest.importorskip("tensorboard")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return noise_pictures(tmp_path_factory.mktemp("pictures"))


def board(output):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(output / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def config(folder, **train):
    return settings(folder, validate={"every": 4}, **{"tensorboard": True, "sample_every": 4} | train)


def test_rows_and_sheets_are_shown_once_over_a_kill(folder, tmp_path, monkeypatch):
    plain = Loop._step

    def killed(self, batch, size):
        if self.step == 8:
            raise MemoryError  # steps 6 to 8 and the sheet of step 8 are repeated
        return plain(self, batch, size)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", killed)
        with pytest.raises(MemoryError):
            train(config(folder), tmp_path)
    assert len(board(tmp_path).Scalars("loss")) == 8
    train(config(folder), tmp_path)
    shown, rows = board(tmp_path), logged(tmp_path)
    for key in ("loss", "lr", "images_s", "val_loss", "psnr_25"):
        told = {row["step"]: row[key] for row in rows if key in row}
        assert [event.step for event in shown.Scalars(key)] == list(told)
        assert [event.value for event in shown.Scalars(key)] == pytest.approx(list(told.values()), rel=1e-6)
    assert [event.step for event in shown.Images("samples")] == [4, 8, 12]


def test_it_may_be_turned_on_late_and_is_off_by_default(folder, tmp_path):
    train(settings(folder, steps=4), tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    train(config(folder, steps=6), tmp_path)
    assert [event.step for event in board(tmp_path).Scalars("loss")] == [5, 6]
    train(settings(folder, steps=2), tmp_path, fresh=True)
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_an_input_error_before_anything_is_done(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"needs the package tensorboard: pip install 'restore-diffusion\[train\]'"):
        train(config(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()
