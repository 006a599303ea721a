"""Address and key of a chat endpoint: the key is sent to it, and shown or stored nowhere."""

import os
from urllib.parse import urlsplit

from labeler.errors import OptionError

KEY_VARIABLES = ("LABELER_LLM_KEY", "OPENAI_API_KEY")
"""Where the key comes from: the first of these environment variables that is set."""

NO_KEY = "none"
"""Sent where no key is set: the client wants one, and local servers read none."""

EXCERPT = 200
"""Characters of an endpoint's own words that a message quotes."""


def find_key() -> str:
    """Return the key from the environment; read each time, so that no object of ours holds it.

    Raises
    ------
    OptionError
        If it cannot be sent in a header.
    """
    for variable in KEY_VARIABLES:
        if key := os.environ.get(variable, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise OptionError(
                    f"{variable} holds characters that no key has (line ends, control characters, "
                    "or letters beyond ASCII); copy the key again"
                )
            return key
    return NO_KEY


def clean(text: str) -> str:
    """Return an endpoint's words, fit for a message: short, printable, and without the key."""
    key = find_key()
    if key != NO_KEY:
        text = text.replace(key, "***")
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= EXCERPT else shown[:EXCERPT] + "..."


def check_url(base_url: str) -> None:
    """Refuse an address that is none, or that holds secrets: it is shown and stored.

    Raises
    ------
    OptionError
        If it is not http(s) with a host, or has a user, a password or parameters.
    """
    if any(c in base_url for c in "@?#"):
        raise OptionError(
            "--llm-base-url must not hold a user, a password or parameters (so it is not shown "
            "here); give the key in the environment variable LABELER_LLM_KEY"
        )
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not base_url.isascii() or not base_url.isprintable() or " " in base_url:
        raise OptionError(
            f"--llm-base-url {base_url!r} is no address; give one such as http://localhost:8000/v1"
        )
