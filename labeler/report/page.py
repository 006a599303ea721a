"""Fill the page's template: one HTML file that needs nothing beside it."""

import math
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labeler.inputs import Run
from labeler.report.content import report_content
from labeler.store import atomic_path

_FOLDER = Path(__file__).resolve().parent


def write_report(run: Run) -> Path:
    """Write ``report.html`` of a run whose steps are done, and return its path.

    Raises
    ------
    RunError, LabelError, CacheError
        If a step has not been run; names it.
    DiskError
        If the file cannot be written.
    """
    html = render(report_content(run))
    path = run.out / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def render(content: Mapping[str, object], template: str = "page.html.j2") -> str:
    """Fill a template; every text is escaped, since tokens are whatever the corpus holds."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": number, "percent": percent, "signed": signed}
    return environment.get_template(template).render(
        **content,
        css=_own("page.css") + "\n" + _own("audit.css"),
        js=_own("page.js"),
    )


def _own(name: str) -> Markup:
    # The package's own file, put into <style> or <script> unescaped.
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def number(value: float | None, digits: int = 2) -> str:
    """A number to read; a dash where there is none.

    >>> number(0.9349), number(1234.5, 0), number(float("nan"))
    ('0.93', '1,234', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else signed(f"{value:,.{digits}f}")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage.

    >>> percent(0.1284, 1)
    '12.8%'
    """
    return "–" if value is None or math.isnan(value) else signed(f"{value:.{digits}%}")


def signed(text: str) -> str:
    """A true minus sign, and none before a zero.

    >>> signed("-0.30"), signed("-0.00")
    ('−0.30', '0.00')
    """
    if not text.startswith("-"):
        return text
    return "−" + text[1:] if text.strip("-0.,%") else text[1:]
