"""Label the latents of sparse coders with small programs, fitted and checked."""

__version__ = "0.1.0"
