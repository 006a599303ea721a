"""Sparse coders: transcoders and sparse autoencoders behind one small protocol."""

from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.coder import Coder, CoderFormat
from labeler.coders.load import load_coders
from labeler.coders.sparsify import SparsifyCoder, SparsifyConfig

__all__ = [
    "AffineCoder",
    "AffineWeights",
    "Coder",
    "CoderFormat",
    "SparsifyCoder",
    "SparsifyConfig",
    "load_coders",
]
