"""OUTPUT/best: the averaged weights of the best validation so far, over all resumes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from training import logged, noise_pictures, settings, train

from restore import load_prior
from restore.train import loop as loops
from restore.train.loop import Loop
from restore.train.prior import PriorTask

SCORES = {2: 20.0, 4: 22.0, 6: 21.0, 8: 23.0, 10: 22.5, 12: float("nan")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return noise_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def scored(monkeypatch):
    """Validations of PriorTask give SCORES by turns; kept, by step: the weights that were validated."""
    kept = {}
    at = {}

    def validate(self, model):
        kept[at["step"]] = {name: value.clone() for name, value in model.state_dict().items()}
        return {"val_score": SCORES[at["step"]], "val_loss": 1.0}

    plain = Loop._validate

    def told(self):
        at["step"] = self.step
        plain(self)

    monkeypatch.setattr(Loop, "_validate", told)
    monkeypatch.setattr(PriorTask, "validate", validate)
    monkeypatch.setattr(PriorTask, "best", "val_score", raising=False)
    return kept


def config(folder, **train):
    return settings(folder, validate={"every": 2}, **{"save_every": 3} | train)


def weights(output):
    return load_file(output / "best" / "unet" / "diffusion_pytorch_model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def marked(output):
    return [row["step"] for row in logged(output) if row.get("best")]


def test_the_best_is_kept(folder, tmp_path, scored):
    train(config(folder), tmp_path)
    assert marked(tmp_path) == [2, 4, 8]
    assert equal(weights(tmp_path), scored[8])
    assert load_prior(str(tmp_path / "best"), device="cpu").net is not None
    assert "val_score" not in (tmp_path / "best" / "README.md").read_text()
    assert {p.name for p in (tmp_path / "best").iterdir()} == {p.name for p in (tmp_path / "prior").iterdir()}


def test_without_a_measure_there_is_no_best(folder, tmp_path, scored, monkeypatch):
    monkeypatch.setattr(PriorTask, "best", None)
    train(config(folder), tmp_path)
    assert marked(tmp_path) == []
    assert not (tmp_path / "best").exists()


def test_the_best_so_far_counts_over_resumes_and_fresh_forgets_it(folder, tmp_path, scored, monkeypatch):
    train(config(folder, steps=4), tmp_path)
    train(config(folder, steps=6), tmp_path)
    assert marked(tmp_path) == [2, 4]
    assert equal(weights(tmp_path), scored[4])
    monkeypatch.setattr(PriorTask, "best", None)
    train(config(folder, steps=2), tmp_path, fresh=True)
    assert not (tmp_path / "best").exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["whole", "row", "checkpoint", "replace", "after"])
def test_a_kill_at_any_moment_leaves_the_best_of_the_log(folder, tmp_path, scored, monkeypatch, moment):
    """Killed at step 8, whose score is then another: only what the log of the resumption says may be in OUTPUT/best."""
    with monkeypatch.context() as patch:

        def kill_in(owner, name, before):
            plain = getattr(owner, name)

            def call(*args, **options):
                now = any(row["step"] == 7 for row in current["loop"].log.rows)
                best = name not in ("replace", "_checkpoint") or (tmp_path / ".best-00000008").exists()
                if now and best and before:
                    raise Killed
                out = plain(*args, **options)
                if now and best and current["loop"].step == 8:
                    raise Killed
                return out

            patch.setattr(owner, name, call)

        current = {}
        began = Loop._loop

        def remember(self):
            current["loop"] = self
            began(self)

        patch.setattr(Loop, "_loop", remember)
        owner, name, before = {
            "whole": (PriorTask, "export", False),
            "row": (Loop, "_checkpoint", True),
            "checkpoint": (Loop, "_checkpoint", False),
            "replace": (loops, "replace", True),
            "after": (loops, "replace", False),
        }[moment]
        kill_in(owner, name, before)
        with pytest.raises(Killed):
            train(config(folder), tmp_path)
    survived = moment in ("checkpoint", "replace", "after")
    monkeypatch.setitem(SCORES, 8, 23.0 if survived else 1.0)
    first = dict(scored)
    train(config(folder), tmp_path)
    steps = marked(tmp_path)
    assert steps == ([2, 4, 8] if survived else [2, 4, 10])
    assert equal(weights(tmp_path), (first if steps[-1] in first else scored)[steps[-1]])
    assert [row["step"] for row in logged(tmp_path) if "loss" in row] == list(range(1, 13))
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_progress_tells_of_the_best(folder, tmp_path, scored, capsys):
    from restore.train.prior import train_prior

    train_prior(config(folder, steps=4), output=tmp_path, device="cpu")
    assert "step 4: held-out score: 22, the best so far" in capsys.readouterr().err
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["best"] is True
