"""How the labels are tried: what `labeler verify --all` can be told."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from labeler.errors import OptionError
from labeler.labels import ALL_BUDGETS, READABLE, Budget

_PACE = ("llm_timeout", "llm_concurrency")
"""What changes how long it takes and nothing else."""


@dataclass(frozen=True)
class TrialConfig:
    """Which labels are tried, how often, and on whose texts."""

    latents: int = 0
    """Labels of each hookpoint that are tried, drawn at random; 0 for all."""
    budget: Budget = READABLE
    """Key budget of the labels."""
    trials: int = 12
    """Edits of each kind for a label."""
    texts: int = 8
    """Generated texts for a label, from each generator."""
    generators: tuple[str, ...] = ("subject",)
    """"subject" (the model itself), "edit" (no model: held-out text spliced), or model folders."""
    llm_base_url: str | None = None
    """Address of an OpenAI-compatible endpoint, as a further generator."""
    llm_model: str | None = None
    """Model to ask there; the only one it lists where None."""
    llm_timeout: float = 60.0
    """Seconds that one try of a request may take."""
    llm_concurrency: int = 8
    """Requests under way at a time."""
    ablated: int = 64
    """Labels of each hookpoint compared token by token (ablated text)."""
    seed_protocol: bool = False
    """Whether to run the seed study's own criterion beside ours."""
    intruder: bool = False
    """Whether to add intruder detection to the scores that others use."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low in (("latents", 0), ("trials", 6), ("texts", 0), ("ablated", 0)):
            if getattr(self, name) < low:
                raise OptionError(f"--{name} is {getattr(self, name)}; give at least {low}")
        if self.budget not in ALL_BUDGETS:
            raise OptionError(
                f"--budget is {self.budget!r}; there are {', '.join(map(str, ALL_BUDGETS))}"
            )
        if self.llm_model is not None and self.llm_base_url is None:
            raise OptionError("--llm-model needs --llm-base-url: the endpoint that serves it")

    def to_json(self) -> dict[str, Any]:
        """What results depend on, as a JSON object."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if name not in _PACE}
