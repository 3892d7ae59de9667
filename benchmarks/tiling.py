"""Peak memory of one edit with a network that attends, by the side of the picture: tiles bound it.

`python benchmarks/tiling.py` prints a table. Each size runs in a process of its own; the peak is that of its resident
memory, less what it was before the run, so the picture itself and what the chain keeps of it are counted.
"""

import argparse
import resource
import subprocess
import sys


def peak(side: int, window: int, tile: str) -> float:
    """MiB that one step on a picture of this side took beyond what was there before."""
    import diffusers
    import torch

    from restore import images, tasks
    from restore.levels import linear
    from restore.prior import Prior

    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=window, block_out_channels=(32, 32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    prior = Prior(net.eval().requires_grad_(False), schedule=linear(), multiple=4, size=window)
    picture = images.read(torch.rand(1, 3, side, side))
    warm = images.read(torch.rand(1, 3, 16, 16))
    tasks.Edit(steps=1).run(warm, None, prior)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tasks.Edit(steps=1, tile=tile).run(picture, None, prior)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--window", type=int, default=128, help="the size that the network was trained at")
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(peak(args.one, args.window, args.tile))
        return
    print(f"| side | peak, MiB (window {args.window}, tile {args.tile}) | of it 4-byte RGB copies of the picture |")
    print("| --- | --- | --- |")
    for side in args.sides:
        command = [sys.executable, __file__, "--one", side, "--window", args.window, "--tile", args.tile]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        found, copy = float(done.stdout.split()[-1]), 12 * side * side / 2**20
        print(f"| {side} | {found:.0f} | {found / copy:.1f} x {copy:.1f} |")


if __name__ == "__main__":
    main()
