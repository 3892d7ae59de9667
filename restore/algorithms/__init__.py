"""The algorithms as papers give them: one file each, on tensors, levels and operators in model space."""

from restore.algorithms.ddib import ddib
from restore.algorithms.ddrm import ddrm
from restore.algorithms.dpir import dpir
from restore.algorithms.ilvr import ilvr, ilvr_as_released, low_pass
from restore.algorithms.repaint import repaint, repaint_as_released
from restore.algorithms.sdedit import sdedit

__all__ = [
    "ddib",
    "ddrm",
    "dpir",
    "ilvr",
    "ilvr_as_released",
    "low_pass",
    "repaint",
    "repaint_as_released",
    "sdedit",
]
