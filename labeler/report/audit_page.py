"""Fill the page of an audit: one HTML file that needs nothing beside it."""

from collections.abc import Mapping
from pathlib import Path

from labeler.report.page import render
from labeler.store import atomic_path


def write_audit_page(path: Path, content: Mapping[str, object]) -> None:
    """Write what `audit_content` says.

    Raises
    ------
    DiskError
        If the file cannot be written; what was there before stays.
    """
    html = render_audit(content)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def render_audit(content: Mapping[str, object]) -> str:
    """Fill the template; every text is escaped, since explanations are whatever files hold."""
    return render(content, "audit.html.j2")
