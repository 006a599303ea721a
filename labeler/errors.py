"""Every error labeler raises on purpose, under one root.

A message names the file, field or option, the value found, and the cure.
"""


class LabelerError(Exception):
    """Root of all errors that labeler raises on purpose."""


class LabelerWarning(UserWarning):
    """Root of all warnings that labeler issues."""


class OptionError(LabelerError):
    """An option or argument has a value that cannot be used."""


class CorpusError(LabelerError):
    """The corpus is missing, empty, unreadable, or lacks a named column."""


class ModelError(LabelerError):
    """The model or its tokenizer cannot be loaded or has no such hookpoint."""


class CoderError(LabelerError):
    """A sparse coder is missing, malformed, or does not fit the model."""


class CacheError(LabelerError):
    """A latent cache is missing, incomplete, corrupted, or made from other inputs."""


class FunctionTypeError(LabelerError):
    """A function type breaks its contract, or a name is unknown or taken twice."""


class NotApplicableError(LabelerError):
    """A function type does not apply to this corpus; the message says why it abstains."""


class LabelError(LabelerError):
    """A saved label set is missing, malformed, or of another format version."""


class RunError(LabelerError):
    """A run folder lacks a step, or belongs to a run with other settings."""


class DiskError(LabelerError):
    """Writing failed (disk full, no permission); what was there before is intact."""


class EndpointError(LabelerError):
    """An LLM endpoint cannot be reached, refuses the key or the model, or answers no more."""


class ExplanationError(LabelerError):
    """A file of explanations, or of results that others stored, is missing, damaged or hostile."""
