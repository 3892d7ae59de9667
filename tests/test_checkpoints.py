"""Checkpoints of guided-diffusion and DDIM: read by their tensors, and by what is said beside them."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from conftest import seeded
from safetensors.torch import load_file, save_file
from test_guided import SMALL, UNET, given, lively
from torch.nn import functional as F

import restore
from restore import checkpoints
from restore.checkpoints.released import KNOWN
from restore.errors import InputError
from restore.guided import GuidedEncoder, GuidedUNet
from restore.levels import CLEAN, cosine, linear
from restore.steps import ancestral, ddim, large, once, sample
from restore.wrappers import clip

FLAGS = {"image_size": 16, "num_head_channels": 16, "use_new_attention_order": False}
OWN = {"num_head_channels": 16, "sample_size": 16}  # what FLAGS says, to our classes
HEADS = {"num_heads": 2, "num_head_channels": None}


def saved(path, net, flags=None, wrap=lambda state: state):
    """The file of a network as its code would write it, and the flags beside it."""
    torch.save(wrap({name: value.half() for name, value in net.state_dict().items()}), path)
    if flags is not None:
        path.with_suffix(".toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in flags.items()))
    return path


def halved(net):
    """The weights as a file of half precision holds them."""
    net.load_state_dict({name: value.half().float() for name, value in net.state_dict().items()})
    return net


def answers(net, *args):
    with torch.no_grad():
        out = net(*args)
    return getattr(out, "sample", out)


# ---------------------------------------------------------------- guided-diffusion

NETWORKS = {
    "plain": ({}, {}, {}),
    "no scale-shift": ({"scale_shift": False}, {}, {"use_scale_shift_norm": False}),
    "convolutions": ({"resample": "conv"}, {}, {"resblock_updown": False}),
    "averages": ({"resample": "pool"}, {}, {"resblock_updown": False, "conv_resample": False}),
    "classes": ({"num_class_embeds": 5}, {}, {"class_cond": True, "num_classes": 5}),
    "new order": ({"new_order": True}, {"use_new_attention_order": True}, {}),
    "heads": ({**HEADS}, {"num_heads": 2, "num_head_channels": -1}, {}),
    "heads of two widths": ({**HEADS, "attention": (True, True)}, {"num_heads": 2, "num_head_channels": -1},
                            {"attention_resolutions": "16,8"}),
    "other heads upwards": (
        {**HEADS, "num_heads_upsample": 4, "new_order": True},
        {"num_heads": 2, "num_head_channels": -1, "num_heads_upsample": 4, "use_new_attention_order": True}, {},
    ),
    "fixed variance": ({"out_channels": 3}, {}, {"learn_sigma": False}),
    "three blocks": ({"layers": 3}, {}, {"num_res_blocks": 3}),
    "as 512 px": ({"channels": (32, 64, 64), "model_channels": 64, "attention": (False, False, True)}, {},
                  {"channel_mult": "0.5,1,1", "num_channels": 64}),
    "as 256 px": ({"channels": (32, 32, 64, 64, 128, 128), "attention": (False,) * 3 + (True,) * 3, "layers": 2},
                  {"image_size": 256}, {"channel_mult": "", "attention_resolutions": "32,16,8"}),
    "one scale": ({"channels": (32,), "attention": (True,)}, {}, {"channel_mult": [1]}),
    "an upsampler": ({"low_res": True, "num_class_embeds": 3}, {}, {"small_size": 4}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("said", ["untold", "told"])
def test_networks_come_back(name, said, tmp_path):
    """Of a few flags, and of all: what the tensors tell may be left out, and may be said."""
    own, need, told = NETWORKS[name]
    net = halved(lively(GuidedUNet(**{**UNET, **own})))
    flags = {**FLAGS, **need, **(told if said == "told" else {}), "use_checkpoint": False, "dropout": 0.1}
    found = checkpoints.read(saved(tmp_path / "net.pt", net, flags))
    size = flags["image_size"]
    assert (found.kind, found.family, found.size) == ("prior", "guided-diffusion", size)
    assert found.labels == own.get("num_class_embeds")
    assert found.scheduler["variance_type"] == ("fixed_large" if name == "fixed variance" else "learned_range")
    x, t = given(32)
    args = [x, t, *([torch.tensor([0, 2])] if found.labels else [])]
    more = {"low_res": x[..., ::4, ::4]} if own.get("low_res") else {}
    with torch.no_grad():
        wanted, out = net(*args, **more), found.net(*args, **more)
    torch.testing.assert_close(getattr(out, "sample", out), wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("pool", ["adaptive", "attention", "spatial", "spatial_v2"])
@pytest.mark.parametrize("names", ["classifier", "constructor"])
def test_classifiers_come_back(pool, names, tmp_path):
    net = halved(lively(GuidedEncoder(**SMALL, **OWN, classes=7, pool=pool, layers=2)))
    flags = {
        "classifier": {
            "image_size": 16, "classifier_width": 32, "classifier_depth": 2, "classifier_attention_resolutions": "8",
            "classifier_use_scale_shift_norm": True, "classifier_resblock_updown": True, "classifier_pool": pool,
            "num_head_channels": 16, "noise_schedule": "cosine",
        },
        "constructor": {
            "image_size": 16, "in_channels": 3, "model_channels": 32, "out_channels": 7, "num_res_blocks": 2,
            "attention_resolutions": [2], "channel_mult": [1, 2], "use_fp16": False, "num_head_channels": 16,
            "use_scale_shift_norm": True, "resblock_updown": True, "pool": pool,
        },
    }[names]  # fmt: skip
    path = saved(tmp_path / "classifier.pt", net, flags)
    found = restore.load_classifier(path, device="cpu", dtype="float32")
    assert (found.labels, found.multiple) == (7, 2)
    x, t = given(16)
    torch.testing.assert_close(answers(found.net, x, t), answers(net, x, t), atol=1e-4, rtol=1e-5)
    schedule = cosine() if names == "classifier" else linear()
    assert found.schedule.at(500).ratio == pytest.approx(schedule.at(500).ratio)


def test_heads_of_a_classifier_are_of_64_channels_where_its_own_flags_are_given(tmp_path):
    net = halved(lively(GuidedEncoder(**SMALL, num_head_channels=64, sample_size=16, classes=7)))
    flags = {"image_size": 16, "classifier_use_fp16": True, "classifier_width": 32, "classifier_depth": 1}
    found = checkpoints.read(saved(tmp_path / "c.pt", net, flags))
    assert found.net.config.num_head_channels == 64
    x, t = given(16)
    torch.testing.assert_close(answers(found.net, x, t), answers(net, x, t), atol=1e-5, rtol=1e-5)


def test_depth_of_a_classifier_is_asked_for_where_it_could_be_two(tmp_path):
    """A residual block that halves looks like one that does not, where no attention and no width tells them apart."""
    net = GuidedEncoder(model_channels=32, channels=(32, 32, 32, 32), layers=2, attention=(False,) * 4, pool="adaptive")
    path = saved(tmp_path / "c.pt", net, {"image_size": 16, "num_heads": 1})
    with pytest.raises(InputError, match="do not tell num_res_blocks \\(1 or 2 or 3 or 5 or 11\\)"):
        checkpoints.read(path)
    assert checkpoints.read(path, {"classifier_depth": 2}).flags["channel_mult"] == [1, 1, 1, 1]


def test_as_a_prior(tmp_path):
    net = halved(lively(GuidedUNet(**UNET, num_class_embeds=4)))
    path = saved(tmp_path / "net.pt", net, {**FLAGS, "noise_schedule": "cosine", "diffusion_steps": 4000})
    prior = restore.load_prior(path, device="cpu", dtype="float32")
    assert (prior.size, prior.labels, prior.multiple, prior.clip, prior.channels) == (16, 4, 2, True, 3)
    assert len(prior.schedule) == 4000
    x, level = given(16)[0], prior.schedule.at(1500)
    pred = prior.labelled(2)(x, level)
    out = answers(net, x, torch.full((2,), 1500.0), torch.tensor([2, 2]))
    eps = out[:, :3]
    x0 = ((x - level.sigma * eps) / level.alpha).clamp(-1, 1)
    torch.testing.assert_close(pred.x0, x0, atol=1e-4, rtol=0)
    torch.testing.assert_close(pred.frac, out[:, 3:], atol=1e-4, rtol=0)


def test_schedules_of_other_lengths(tmp_path):
    net = GuidedUNet(**UNET)
    found = checkpoints.read(saved(tmp_path / "n.pt", net), {**FLAGS, "diffusion_steps": 250, "predict_xstart": True})
    assert (found.scheduler["beta_start"], found.scheduler["beta_end"]) == (0.1 / 250, 20 / 250)
    assert found.scheduler["prediction_type"] == "sample"
    with pytest.raises(InputError, match="rescale_timesteps with 250"):
        checkpoints.read(tmp_path / "n.pt", {**FLAGS, "diffusion_steps": 250, "rescale_timesteps": "True"})


# ---------------------------------------------------------------- DDIM


def ddim_state(ch=32, ch_mult=(1, 2), layers=1, attention=(False, True), resample=True, seed=0):
    """Random weights by the names of DDIM's Model."""
    state, rng, time = {}, seeded(seed), 4 * ch

    def add(name, *shape):
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.2
        noise = scale * torch.randn(*shape, generator=rng)
        state[f"{name}.weight"] = 1 + noise if len(shape) == 1 else noise
        state[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=rng)

    def block(name, inside, outside):
        add(f"{name}.norm1", inside)
        add(f"{name}.conv1", outside, inside, 3, 3)
        add(f"{name}.temb_proj", outside, time)
        add(f"{name}.norm2", outside)
        add(f"{name}.conv2", outside, outside, 3, 3)
        if inside != outside:
            add(f"{name}.nin_shortcut", outside, inside, 1, 1)

    def attend(name, width):
        add(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            add(f"{name}.{part}", width, width, 1, 1)

    add("temb.dense.0", time, ch)
    add("temb.dense.1", time, time)
    add("conv_in", ch, 3, 3, 3)
    widths, kept, width = [ch * m for m in ch_mult], [ch], ch
    for i, wide in enumerate(widths):
        for j in range(layers):
            block(f"down.{i}.block.{j}", width, wide)
            width = wide
            kept.append(wide)
            if attention[i]:
                attend(f"down.{i}.attn.{j}", wide)
        if i < len(widths) - 1:
            kept.append(wide)
            if resample:
                add(f"down.{i}.downsample.conv", wide, wide, 3, 3)
    block("mid.block_1", width, width)
    attend("mid.attn_1", width)
    block("mid.block_2", width, width)
    for i in reversed(range(len(widths))):
        for j in range(layers + 1):
            block(f"up.{i}.block.{j}", width + kept.pop(), widths[i])
            width = widths[i]
            if attention[i]:
                attend(f"up.{i}.attn.{j}", width)
        if i and resample:
            add(f"up.{i}.upsample.conv", width, width, 3, 3)
    add("norm_out", width)
    add("conv_out", 3, width, 3, 3)
    return state


def ddim_model(state, x, t, levels, layers):
    """The network of DDIM (Ho et al. 2020, appendix B) written down a second time, in functions."""

    def norm(name, h):
        return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def conv(name, h, **options):
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def dense(name, h):
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def block(name, h):
        inside = h
        h = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", h)), padding=1)
        h = h + dense(f"{name}.temb_proj", F.silu(emb))[..., None, None]
        h = conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", h)), padding=1)
        return h + (conv(f"{name}.nin_shortcut", inside) if f"{name}.nin_shortcut.weight" in state else inside)

    def attend(name, h):
        if f"{name}.q.weight" not in state:
            return h
        q, k, v = (conv(f"{name}.{part}", norm(f"{name}.norm", h)).flatten(2) for part in "qkv")  # (B,C,L)
        weights = (q.transpose(1, 2) @ k / math.sqrt(q.shape[1])).softmax(-1)  # (B,L,L)
        return h + conv(f"{name}.proj_out", (v @ weights.transpose(1, 2)).reshape(h.shape))

    half = state["temb.dense.0.weight"].shape[1] // 2
    angles = t[:, None] * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    emb = dense("temb.dense.1", F.silu(dense("temb.dense.0", torch.cat([angles.sin(), angles.cos()], 1))))
    h = conv("conv_in", x, padding=1)
    kept = [h]
    for i in range(levels):
        for j in range(layers):
            h = attend(f"down.{i}.attn.{j}", block(f"down.{i}.block.{j}", h))
            kept.append(h)
        if i < levels - 1:
            name = f"down.{i}.downsample.conv"
            h = conv(name, F.pad(h, (0, 1, 0, 1)), stride=2) if f"{name}.weight" in state else F.avg_pool2d(h, 2)
            kept.append(h)
    h = block("mid.block_2", attend("mid.attn_1", block("mid.block_1", h)))
    for i in reversed(range(levels)):
        for j in range(layers + 1):
            h = attend(f"up.{i}.attn.{j}", block(f"up.{i}.block.{j}", torch.cat([h, kept.pop()], 1)))
        if i:
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            name = f"up.{i}.upsample.conv"
            h = conv(name, h, padding=1) if f"{name}.weight" in state else h
    return conv("conv_out", F.silu(norm("norm_out", h)), padding=1)


DDIM = {
    "plain": {},
    "two blocks": {"layers": 2, "ch_mult": (1, 1, 2), "attention": (False, True, False)},
    "no convolutions": {"resample": False, "ch_mult": (1, 1, 2), "attention": (False, False, True)},
    "one scale": {"ch_mult": (1,), "attention": (True,)},
}


@torch.no_grad()
@pytest.mark.parametrize("name", DDIM)
@pytest.mark.parametrize("averaged", [False, True])
def test_ddim_networks_come_back(name, averaged, tmp_path):
    """As a state dict, and as what training writes: the weights, the optimizer, counts, and the averaged weights."""
    options = {"ch_mult": (1, 2), "attention": (False, True), "layers": 1, **DDIM[name]}
    state, other = ddim_state(**options), ddim_state(**options, seed=9)
    wrapped = [{f"module.{k}": v for k, v in other.items()}, {"state": {}, "param_groups": []}, 3, 4711, state]
    torch.save(wrapped if averaged else state, tmp_path / "model.ckpt")
    resolutions = [16 // 2**i for i, attends in enumerate(options["attention"]) if attends]
    text = f'ch = 32\nch_mult = {list(options["ch_mult"])}\nattn_resolutions = {resolutions}\ntype = "simple"\n'
    beside = f"[model]\n{text}dropout = 0.0\n[data]\nimage_size = 16\n[diffusion]\nbeta_start = 2e-4\n"
    (tmp_path / "model.toml").write_text(beside)
    prior = restore.load_prior(tmp_path / "model.ckpt", device="cpu", dtype="float32")
    assert (prior.size, prior.multiple, prior.labels) == (16, 2 ** (len(options["ch_mult"]) - 1), None)
    assert prior.schedule.at(0).sigma ** 2 == pytest.approx(2e-4, rel=1e-3)
    x, t = given(16)
    wanted = ddim_model(state, x, t, len(options["ch_mult"]), options["layers"])
    assert wanted.std() > 0.1
    torch.testing.assert_close(answers(prior.net, x, t), wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


# ---------------------------------------------------------------- reference vectors and released files

VECTORS = Path(os.environ.get("RESTORE_GOLDEN", "/nowhere"))
away = pytest.mark.skipif(not VECTORS.is_dir(), reason="RESTORE_GOLDEN names no folder of reference vectors")
RELEASED = {"celeba_hq_ckpt": "celeba_hq.ckpt", "ilvr_p2_ffhq_10m": "ffhq_10m.pt"}


@away
@pytest.mark.parametrize(
    "name", ["gd/unet_a_plain", "gd/unet_b_updown_headch", "gd/unet_c_classcond_neworder", "ddim/ddimnet_a"]
)
def test_reference_networks(name, tmp_path):
    tensors, facts = load_file(VECTORS / f"{name}.safetensors"), json.loads((VECTORS / f"{name}.json").read_text())
    state = {key[3:]: value for key, value in tensors.items() if key.startswith("sd.")}
    save_file(state, tmp_path / "net.safetensors")
    config = facts["config"]
    flags = {**config.get("model", {}), **{k: v for k, v in config.items() if not isinstance(v, dict)}}
    prior = restore.load_prior(tmp_path / "net.safetensors", flags=flags, device="cpu", dtype="float32")
    args = [tensors["x"], tensors["timesteps"], *([tensors["y"]] if prior.labels else [])]
    torch.testing.assert_close(answers(prior.net, *args), tensors["output"], atol=2e-5, rtol=0)


@away
@pytest.mark.parametrize("name", sorted(p.stem for p in VECTORS.glob("manifests/*.json")))
def test_released_files_by_their_name_alone(name, tmp_path):
    shapes = json.loads((VECTORS / f"manifests/{name}.json").read_text())
    path = tmp_path / RELEASED.get(name, f"{name}.pt")
    torch.save({key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}, path)
    found = checkpoints.read(path)
    assert found.size == KNOWN[path.stem].flags["image_size"]
    assert sum(p.numel() for p in found.net.parameters()) == sum(math.prod(shape) for shape in shapes.values())


@away
@pytest.mark.parametrize("name", ["steps_uniform20_eta0", "ddpm_steps_20"])
def test_reference_sampling(name, gaussian_prior, replay):
    """The loops of the DDIM code, by every fiftieth time."""
    tensors = load_file(VECTORS / f"ddim/{name}.safetensors")
    ddpm = name.startswith("ddpm")
    left = replay(tensors["noise"] if ddpm else [])
    levels = [gaussian_prior.schedule.at(float(t)) for t in range(950, -1, -50)] + [CLEAN]
    denoise, move = (clip(gaussian_prior), once(ancestral, variance=large)) if ddpm else (gaussian_prior, once(ddim))
    states = list(sample(denoise, tensors["xs"][0], levels, move=move))
    assert len(left) == ddpm  # the original draws for the last step too
    for state, expected in zip(states, tensors["xs"][1:], strict=True):
        assert (state.x - expected).abs().max() < 2e-5
