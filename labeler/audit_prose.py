"""What judges the prose of an audit, made from the options: embeddings, and a simulator."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.arrays import Floats
from labeler.tokens import Tokens

if TYPE_CHECKING:
    from labeler.eval.audit.prose import ContextScorer
    from labeler.eval.llm.simulate import Simulator


@dataclass(frozen=True)
class Simulation:
    """The language model that simulates prose: an endpoint or a folder."""

    base_url: str | None = None
    model: str | None = None
    folder: Path | None = None


def embedding_scorer(embedding: Path | None) -> "ContextScorer | None":
    """The embedding model of a folder, checked and loaded."""
    if embedding is None:
        return None
    from labeler.eval.audit.embedding import EmbeddingScorer

    return EmbeddingScorer(embedding)


@dataclass(eq=False)
class Simulating:
    """A simulator by the name that the table has for it."""

    simulator: "Simulator"
    name: str = "simulator"

    def predict(self, text: str, tokens: Tokens) -> Floats:
        """Predicted activations, float32 [n_ctx, ctx_len]."""
        return self.simulator.predict(text, tokens)


def simulator_of(simulation: Simulation | None, out: Path) -> Simulating | None:
    """The simulator, with its answers kept beside the results."""
    if simulation is None:
        return None
    from labeler.eval.llm.ask import Answers, open_asker
    from labeler.eval.llm.simulate import Simulator

    asker = open_asker(simulation.base_url, simulation.model, simulation.folder)
    return Simulating(Simulator(Answers(asker, out / "answers.jsonl")))
