"""The formats that sparse coders come in, in the order in which they are tried."""

from labeler.coders.coder import CoderFormat
from labeler.coders.gemma_scope import GEMMA_SCOPE
from labeler.coders.openai_sae import OPENAI
from labeler.coders.saelens import SAE_LENS
from labeler.coders.sparsify import SPARSIFY
from labeler.coders.transcoder_circuits import TRANSCODER_CIRCUITS
from labeler.coders.turing_sae import TURING

FORMATS: tuple[CoderFormat, ...] = (
    SAE_LENS,
    SPARSIFY,
    GEMMA_SCOPE,
    TRANSCODER_CIRCUITS,
    OPENAI,
    TURING,
)


def layouts() -> str:
    """What each of them looks like, one per line, for messages."""
    return "\n".join(f"  {one.name}: {one.layout}" for one in FORMATS)
