"""What a sampling step costs over the bare network, beside diffusers' own pipelines.

python benchmarks/overhead.py [--size 128] [--steps 5] [--device auto]

The network is a 20 M-parameter UNet2DModel with random weights. A clock inside it adds up the network's own seconds,
so that both sides of the ratio come from the same run: ratio = whole run / seconds inside the network.
"""

import argparse
import platform
import time

import diffusers
import torch

from restore import last, linear, load_prior, sample, travel
from restore.algorithms import ddib, ddrm, dpir, ilvr, low_pass, repaint, sdedit
from restore.kernels import read_kernel
from restore.operators import Mask, blur, downscale
from restore.steps import ancestral, ddim, heun, once


class Clocked(torch.nn.Module):
    """A network that adds up the seconds spent inside it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seconds, self.calls = net, 0.0, 0

    @property
    def config(self):
        return self.net.config

    @property
    def dtype(self):
        return self.net.dtype

    @property
    def device(self):
        return self.net.device

    def forward(self, x, t, **options):
        synchronize(x.device)
        begin = time.perf_counter()
        out = self.net(x, t, **options)
        synchronize(x.device)
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return out


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def runs(net, size, steps, batch, device):
    """Name -> a function that samples `steps` steps."""
    prior = load_prior(net, schedule=linear(1000), device=device, dtype="float32")
    x = torch.randn(batch, 3, size, size, device=device)
    known = torch.zeros(1, 1, size, size, device=device)
    known[..., : size // 2] = 1
    levels = prior.levels(steps)
    ops = {
        "inpaint": Mask(known),
        "x4 average": downscale(4, (size, size), "average").to(device),
        "x4 bicubic": downscale(4, (size, size)).to(device),
        "deblur": blur(read_kernel("motion:15,30"), (size, size)).to(device),
    }
    rng = torch.Generator().manual_seed(0)
    ddim_scheduler = diffusers.DDIMScheduler(clip_sample=False)
    ddpm_scheduler = diffusers.DDPMScheduler(clip_sample=False)
    travelling = diffusers.RePaintScheduler(clip_sample=False)

    def theirs(scheduler, **options):
        def go():
            scheduler.set_timesteps(steps)
            y = x
            for t in scheduler.timesteps:
                y = scheduler.step(net(y, t).sample, t, y, **options).prev_sample

        return go

    def theirs_repaint():
        travelling.set_timesteps(steps, jump_length=steps, jump_n_sample=1)
        y = x
        for t in travelling.timesteps:
            y = travelling.step(net(y, t).sample, t, y, x, known).prev_sample

    return {
        "restore ddim": lambda: last(sample(prior, x, levels, move=once(ddim))),
        "restore ddpm": lambda: last(sample(prior, x, levels, move=once(ancestral, rng=rng))),
        "restore heun": lambda: last(sample(prior, x, levels, move=heun)),
        "restore repaint": lambda: last(repaint(prior, x, known, travel(levels, 2, 1), rng=rng)),
        **{
            f"restore ddrm, {name}": lambda op=op: last(ddrm(prior, op, op.A(x), 0.05, levels, rng=rng))
            for name, op in ops.items()
        },
        **{
            f"restore dpir, {name}": lambda op=op: last(dpir(prior, op, op.A(x), 0.05, levels))
            for name, op in ops.items()
        },
        "restore ilvr": lambda: last(ilvr(prior, x, low_pass(4), levels, rng=rng)),
        "restore sdedit": lambda: last(sdedit(prior, x, levels, mask=known, rng=rng)),
        "restore ddib": lambda: last(ddib(prior, prior, x, levels[:-1][::-1], levels, step=once(ddim))),
        "diffusers DDIM": theirs(ddim_scheduler),
        "diffusers DDPM": theirs(ddpm_scheduler),
        "diffusers RePaint": theirs_repaint,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    bare = diffusers.UNet2DModel(
        sample_size=args.size,
        block_out_channels=(64, 128, 192, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        add_attention=False,
    )
    net = Clocked(bare).to(device).eval()
    threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device == "cuda" else threads
    millions = sum(p.numel() for p in bare.parameters()) / 1e6
    print(f"{millions:.1f} M parameters, {args.size} px, {args.steps} steps, float32")
    print(f"torch {torch.__version__}, {where}\n")
    print(f"{'':26}" + "".join(f"{f'batch {b}':>12}{'ms outside':>12}" for b in args.batches))
    for name in runs(net, args.size, args.steps, 1, device):
        cells = ""
        for batch in args.batches:
            go = runs(net, args.size, args.steps, batch, device)[name]
            with torch.no_grad():
                go()
                net.seconds, net.calls = 0.0, 0
                synchronize(torch.device(device))
                begin = time.perf_counter()
                for _ in range(args.repeats):
                    go()
                synchronize(torch.device(device))
                total = time.perf_counter() - begin
            outside = (total - net.seconds) / net.calls * 1000
            cells += f"{total / net.seconds:12.4f}{outside:12.2f}"
        print(f"{name:26}{cells}", flush=True)


if __name__ == "__main__":
    main()
