"""How latents are explained by a language model: what `labeler explain` can be told."""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labeler.errors import OptionError

if TYPE_CHECKING:
    from labeler.eval.llm.ask import Asker

_ELSEWHERE = (
    "llm_base_url",
    "llm_model",
    "llm_folder",
    "llm_concurrency",
    "llm_timeout",
    "price_in",
    "price_out",
)
"""Who is asked, which the asker's fingerprint says, and what changes no result."""


@dataclass(frozen=True)
class ExplainConfig:
    """Which latents are explained, on how much text, and by whom."""

    llm_base_url: str | None = None
    """Address of an OpenAI-compatible endpoint."""
    llm_model: str | None = None
    """Model to ask there; the only one it lists where None."""
    llm_folder: str | None = None
    """Folder of a causal language model, instead of an endpoint."""
    hookpoints: tuple[str, ...] = ()
    """Whose latents; all hookpoints of the run where empty."""
    latents: int = 32
    """Live latents of each hookpoint, drawn at random, labeled or not; 0 for all."""
    given: tuple[int, ...] = ()
    """These latents of each hookpoint instead, live or not."""
    examples: int = 40
    """Windows of the fit split that a latent is explained from (delphi: n_examples_train)."""
    windows: int = 20
    """Held-out windows of a latent for detection and for fuzzing, half of them without a firing;
    and windows that are simulated for every latent."""
    window: int = 32
    """Tokens of a window, at most a context (delphi: example_ctx_len)."""
    price_in: float | None = None
    """Dollars for a million tokens sent."""
    price_out: float | None = None
    """Dollars for a million tokens written."""
    llm_timeout: float = 60.0
    """Seconds that one try of a request may take."""
    llm_concurrency: int = 8
    """Requests under way at a time."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low in (("latents", 0), ("examples", 1), ("windows", 2), ("window", 2)):
            if getattr(self, name) < low:
                raise OptionError(f"--{name} is {getattr(self, name)}; give at least {low}")
        for name in ("price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                option = "--" + name.replace("_", "-")
                raise OptionError(f"{option} is {value}; give dollars per million tokens")
        if (self.price_in is None) != (self.price_out is None):
            raise OptionError("give both --price-in and --price-out, or neither")

    def open_asker(self) -> "Asker":
        """Who is asked; see `labeler.eval.llm.ask.open_asker`."""
        from labeler.eval.llm.ask import open_asker

        return open_asker(
            self.llm_base_url,
            self.llm_model,
            self.llm_folder,
            concurrency=self.llm_concurrency,
            timeout=self.llm_timeout,
        )

    def to_json(self) -> dict[str, Any]:
        """What results depend on besides the asker, as a JSON object."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if name not in _ELSEWHERE}
