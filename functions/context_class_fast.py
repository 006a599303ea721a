"""What the last few tokens are about."""

from labeler.functions.decayed_context import DecayedContext
from labeler.functions.registry import register


@register
class ContextClassFast(DecayedContext):
    """One of 64 classes of what the last some 4 tokens are about."""

    name = "context_class_fast"
    half_life = 4
    where = "shortly after tokens like"
