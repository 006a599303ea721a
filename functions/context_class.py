"""What the context so far is about."""

from labeler.functions.decayed_context import DecayedContext
from labeler.functions.registry import register


@register
class ContextClass(DecayedContext):
    """One of 64 classes of what the last some 32 tokens are about."""

    name = "context_class"
    half_life = 32
    where = "in text with"
