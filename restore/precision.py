"""Where a network runs, and in what precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from restore.errors import InputError
from restore.network import Network

N = TypeVar("N", bound=Network)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. InputError for a device that is unknown or not there."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError):
        chosen = None
    if chosen is None or chosen.type == "meta":
        raise InputError(f"device {str(device)!r} is not available: choose auto, cpu or cuda")
    return chosen


def _cast(net: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of matrix products once, so that autocast has nothing left to cast in each forward.

    The first and the last layer stay in float32, as in guided-diffusion: x0 = (x - sigma eps) / alpha
    multiplies their rounding by the noise-to-signal ratio, and colours drift."""
    ends = [getattr(net, name, None) for name in ("conv_in", "conv_out", "proj_out", "proj_out_2")]
    for module in net.modules():
        if any(module is end for end in ends):
            module.forward = _in_float32(module.forward)
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            module.to(dtype)


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def exact(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    return exact


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that a network runs in; `auto` is bf16 where the device has instructions for it. InputError.

    It is never found by timing: the same seed has to give the same picture in every run."""
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")
    if dtype == "float16" and device.type == "cpu":
        raise InputError("float16 is for GPUs: choose float32 or bfloat16 on the CPU")
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:  # AMX, or AVX-512 BF16; torch may not tell
        tests = (getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        fast = device.type == "cpu" and any(test() for test in tests)
    return torch.bfloat16 if fast else torch.float32


def settle(found: N, device: torch.device, dtype: torch.dtype) -> N:
    """Move the network to the device in the asked precision. In float32 the networks of others keep the order of their
    memory, which is slower and comes closer to the numbers that their own code gives."""
    net = found.net.to(device).eval().requires_grad_(False)
    if dtype != torch.float32 or getattr(net, "channels_last", False):
        net.to(memory_format=torch.channels_last)
    found.given = {key: value.to(device) for key, value in found.given.items()}
    for part in found.parts:
        part.to(device)
    found.dtype = dtype
    if dtype != torch.float32:
        _cast(net, dtype)
    return found
