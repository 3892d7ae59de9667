"""Linear operators of degradations, each with its cheap singular value decomposition."""

from restore.operators.base import Composed, Linear, Mask, Operator, decomposed, inverse
from restore.operators.dense import Dense
from restore.operators.fourier import Cosine, Fourier, blur
from restore.operators.hadamard import Hadamard
from restore.operators.kron import Kron, downscale, grayscale, separable_blur

__all__ = [
    "Composed",
    "Cosine",
    "Dense",
    "Fourier",
    "Hadamard",
    "Kron",
    "Linear",
    "Mask",
    "Operator",
    "blur",
    "decomposed",
    "downscale",
    "grayscale",
    "inverse",
    "separable_blur",
]
