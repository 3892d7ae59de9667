"""What is no checkpoint, what is not said, what is said wrongly: one line each, which names the file."""

import os
import re

import pytest
import torch
from command import run
from safetensors.torch import save_file
from test_checkpoints import FLAGS, ddim_state, saved
from test_guided import SMALL, UNET, lively

from restore import checkpoints, zoo
from restore.checkpoints import released
from restore.errors import InputError
from restore.guided import GuidedEncoder, GuidedUNet


@pytest.fixture(scope="module")
def net():
    return lively(GuidedUNet(**UNET))


def refused(path, flags=None):
    """The one line that a file is refused with."""
    with pytest.raises(InputError) as found:
        checkpoints.read(path, flags)
    line = str(found.value)
    assert line.startswith(str(path)) or path.with_suffix(".toml").name in line or line.startswith("flags:")
    assert "\n" not in line
    return line


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("size", [0, 10, 3000, -100])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_is_cut_off(size, suffix, net, tmp_path):
    path = tmp_path / f"net{suffix}"
    (torch.save if suffix == ".pt" else save_file)(net.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert re.search("cut off|damaged", refused(path, FLAGS))


def test_a_text_file(tmp_path):
    path = tmp_path / "net.ckpt"
    path.write_text("<html>404 not found</html>")
    assert "not a checkpoint" in refused(path)


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_with_code_is_not_opened(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for legacy in (False, True):
        path = tmp_path / f"net{legacy}.pt"
        content = {"state_dict": net.state_dict(), "extra": Code()}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        assert re.search(r"holds code \((posix|nt|os)\.system\) and is not opened", refused(path, FLAGS))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [{}, [], 3, {"epoch": 4}, {"optimizer": {"state": {}}, "step": 1}, torch.zeros(3), {"a": torch.zeros(2)}]
)
def test_a_file_without_a_network(content, tmp_path):
    torch.save(content, tmp_path / "net.pt")
    assert re.search("without the tensors|its tensors begin with", refused(tmp_path / "net.pt"))


LOOKS = {
    "model.diffusion_model.input_blocks.0.0.weight": "Stable Diffusion",
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": "text condition",
    "encoder.down.0.block.0.norm1.weight": "a VAE",
    "first_stage_model.encoder.conv_in.weight": "a VAE",
    "text_model.encoder.layers.0.mlp.fc1.weight": "CLIP",
    "lora_unet_down_blocks_0.lora_up.weight": "a LoRA",
    "denoise_fn.downs.0.weight": "the code of SR3",
    "all_modules.0.weight": "score_sde",
    "model.map_layer0.weight": "EDM",
    "down_blocks.0.resnets.0.norm1.weight": "diffusers",
    "layer1.0.conv1.weight": "ResNet",
    "blocks.0.attn.qkv.weight": "DiT",
    "fc.weight": "no network of guided-diffusion, DDIM or SR3",
}


@pytest.mark.parametrize("name", LOOKS)
def test_other_networks_are_told(name, tmp_path):
    torch.save({name: torch.zeros(2, 2)}, tmp_path / "net.pt")
    assert LOOKS[name] in refused(tmp_path / "net.pt")


@pytest.mark.parametrize("wrap", ["state_dict", "model", "ema", "net"])
def test_nested_and_prefixed(wrap, net, tmp_path):
    """Averaged weights come before those of the last step."""
    stale = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    content = {"module." + name: value for name, value in net.state_dict().items()}
    torch.save({"step": 3, wrap: content, **({"model": stale} if wrap == "ema" else {})}, tmp_path / "net.pt")
    found = checkpoints.read(tmp_path / "net.pt", FLAGS).net
    assert torch.equal(found.conv_out.weight, net.conv_out.weight)


def test_a_tensor_too_few_or_too_many(net, tmp_path):
    for change in ("middle_block.1.qkv.weight", "input_blocks.0.0.bias", "extra.weight"):
        state = dict(net.state_dict())
        state.pop(change, None) if change in state else state.update({change: torch.zeros(2)})
        torch.save(state, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", FLAGS)
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("output_blocks.3")}
    torch.save(state, tmp_path / "net.pt")
    assert "way up" in refused(tmp_path / "net.pt", FLAGS)


# ---------------------------------------------------------------- the flags


def test_what_is_missing_is_asked_for(net, tmp_path):
    path = saved(tmp_path / "mine.pt", net)
    assert "do not tell image_size: give flags, or mine.toml" in refused(path)
    assert "num_heads or num_head_channels" in refused(path, {"image_size": 16})
    assert checkpoints.read(path, FLAGS).scheduler["beta_schedule"] == "linear"
    torch.save(ddim_state(), tmp_path / "other.ckpt")
    assert "image_size" in refused(tmp_path / "other.ckpt")
    assert checkpoints.read(tmp_path / "other.ckpt", {"image_size": 32}).flags["attn_resolutions"] == [16]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ({"num_channels": 64}, "num_channels = 64, and its tensors say 32"),
        ({"num_res_blocks": 2}, "num_res_blocks = 2, and its tensors say 1"),
        ({"channel_mult": "1,2,4"}, "channel_mult = 1,2,4, and its tensors say 1,2"),
        ({"attention_resolutions": "16"}, "attention_resolutions = 16, and its tensors say 8"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm = False, and its tensors say True"),
        ({"resblock_updown": "False"}, "resblock_updown = False, and its tensors say True"),
        ({"class_cond": True}, "class_cond = True, and its tensors say False"),
        ({"learn_sigma": False}, "learn_sigma = False, and its tensors say True"),
        ({"num_head_channels": 24}, "num_head_channels = 24 does not divide 64"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule = 'sigmoid': linear or cosine"),
        ({"num_chanels": 32}, "no flag 'num_chanels'; did you mean num_channels?"),
        ({"beta_start": 1}, "no flag 'beta_start'"),
        ({"learn_sigma": "perhaps"}, "learn_sigma = 'perhaps' cannot be read"),
        ({"channel_mult": "one"}, "channel_mult = 'one' cannot be read"),
        ({"num_heads": True}, "num_heads = True cannot be read"),
    ],
)
def test_wrong_flags(flag, words, net, tmp_path):
    path = saved(tmp_path / "net.pt", net)
    assert words in refused(path, {**FLAGS, **flag})
    saved(path, net, {**FLAGS, **flag})
    assert words in refused(path)


@pytest.mark.parametrize(
    "flag",
    [{"ch": 64}, {"ch_mult": [1, 1]}, {"num_res_blocks": 3}, {"attn_resolutions": [32]}, {"resamp_with_conv": False}],
)
def test_wrong_flags_of_ddim(flag, tmp_path):
    torch.save(ddim_state(), tmp_path / "net.ckpt")
    assert "and its tensors say" in refused(tmp_path / "net.ckpt", {"image_size": 32, **flag})


def test_flags_come_before_the_file_beside_it_and_that_before_the_table(net, tmp_path):
    path = saved(tmp_path / "64x64_diffusion.pt", net, {"num_head_channels": 32, "noise_schedule": "linear"})
    found = checkpoints.read(path, {"num_head_channels": 8})
    assert (found.flags["num_head_channels"], found.scheduler["beta_schedule"], found.size) == (8, "linear", 64)
    assert found.flags["use_new_attention_order"] is True  # by the table
    path.with_suffix(".toml").write_text("num_heads = [")
    assert "not readable as TOML" in refused(path)


def test_a_released_name_on_another_network(tmp_path):
    """What its tensors say is not what the table says: nothing is guessed."""
    path = saved(tmp_path / "64x64_classifier.pt", GuidedEncoder(**SMALL, num_head_channels=16, pool="adaptive"))
    assert "the table of released files says num_res_blocks = 4, and its tensors say 1" in refused(path)


def test_a_released_file_by_its_sha256(net, tmp_path, monkeypatch):
    import hashlib

    path = saved(tmp_path / "renamed.pt", net)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    monkeypatch.setattr(released, "SIZES", range(size, size + 1))
    monkeypatch.setattr(released, "SHA256", {digest: "lsun_cat"})
    assert checkpoints.describe(path, {"num_head_channels": 16})["title"].startswith("Cats")


def test_the_hash_that_is_known():
    (digest, name), *others = released.SHA256.items()
    assert (digest[:8], name, others) == ("a37c32ff", "256x256_diffusion_uncond", [])
    assert name in released.KNOWN


def test_a_prior_is_no_classifier_on_the_command_line(net, tmp_path):
    path = saved(tmp_path / "net.pt", net, FLAGS)
    done = run("generate", "--classifier", path, "--label", "1", "-o", tmp_path / "x.png", code=2)
    assert "is a prior, not a classifier" in " ".join(done.stderr.split())


def test_every_file_of_the_zoo_is_known():
    """What can be downloaded by name can be read by name."""
    files = [entry.file for entry in zoo.TABLE if entry.file]
    assert len(files) > 15
    assert [name for name in files if name.rpartition(".")[0] not in released.KNOWN] == []
