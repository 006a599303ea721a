"""The tokens, model and coders of a run, loaded when first asked for."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.config import RunConfig
from labeler.hookpoints import parse_hookpoint
from labeler.plugins import load_recorded
from labeler.tokens import Tokens

if TYPE_CHECKING:
    from labeler.cache import LatentCache
    from labeler.coders import Coder
    from labeler.model import SubjectModel


class Run:
    """A run folder and what it was made from.

    Attributes
    ----------
    out : Path
        The folder.
    config : RunConfig
    quiet : bool
        Whether steps show no progress.
    plugins : tuple of Plugin
        Plug-in files that its labels were fitted with, loaded.

    Raises
    ------
    RunError
        If it is no run folder, or one of its plug-ins is missing or has changed.
    """

    def __init__(self, out: Path, config: RunConfig | None = None, *, quiet: bool = False) -> None:
        self.out, self.quiet = out, quiet
        self.config = config or RunConfig.load(out)
        self.plugins = load_recorded(out)

    @cached_property
    def model(self) -> "SubjectModel":
        """The model."""
        from labeler.model import load_model

        return load_model(self.config.model)

    @cached_property
    def coders(self) -> "dict[str, Coder]":
        """The coders by hookpoint, in layer order."""
        from labeler.coders import load_coders

        return load_coders(
            self.config.coder, model=self.model, hookpoints=self.config.hookpoints or None
        )

    @cached_property
    def tokens(self) -> Tokens:
        """The windows, as `labeler cache` saved them."""
        from labeler.windows import load_tokens

        return load_tokens(self.out / "tokens")

    @cached_property
    def cache(self) -> "LatentCache":
        """The latent cache."""
        from labeler.cache import open_cache

        wanted = [parse_hookpoint(name).name for name in self.config.hookpoints] or None
        return open_cache(self.out / "cache", self.tokens, wanted)

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """Names of the cached hookpoints in layer order."""
        return self.cache.hookpoints
