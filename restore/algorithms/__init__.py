"""The algorithms as papers give them: one file each, on tensors, levels and operators in model space."""

from restore.algorithms.ddrm import ddrm
from restore.algorithms.dpir import dpir
from restore.algorithms.repaint import repaint, repaint_as_released

__all__ = ["ddrm", "dpir", "repaint", "repaint_as_released"]
