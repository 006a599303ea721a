"""A topic that the corpus's metadata gives at one level: shared by topic, subtopic, ..."""

from collections.abc import Sequence
from typing import ClassVar

from labeler.errors import NotApplicableError
from labeler.functions.topic_model import TopicModel
from labeler.tokens import Tokens


class MetadataTopic(TopicModel):
    """The topic at one level of the documents' metadata, inferred from the tokens so far."""

    level: ClassVar[int]

    def topics_of_documents(self, fit: Tokens) -> Sequence[str]:
        """What the metadata says."""
        if len(fit.topic_levels) <= self.level:
            raise NotApplicableError(
                f"the corpus has {len(fit.topic_levels)} topic level(s), level "
                f"{self.level + 1} is needed; name metadata columns with --topic-column, or give "
                "a folder whose sub-folders are topics"
            )
        return [topics[self.level] for topics in fit.topics]

    def at_level(self, tokens: Tokens) -> str:
        """The level's name."""
        return f" at level {tokens.topic_levels[self.level]!r}"
