"""One latent's card in the terminal: the card of the report, at 80 columns."""

import shlex
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from labeler.analysis import choose_hookpoints
from labeler.errors import CacheError
from labeler.eval.heldout import load_heldout_firings
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.report.cards import Card, make_cards, read_scores
from labeler.report.contexts import TRUE_STEPS, Excerpt, Piece, Sample
from labeler.report.evidence import Verdict, read_tried
from labeler.report.glyphs import Segment
from labeler.report.page import number, percent

_FAINT, _FULL = (255, 240, 212), (240, 150, 20)
"""Background of the weakest and of the strongest firing; black text is readable on both."""

_SOFT = Style(dim=True)
_KEY = Style(color="cyan")
_BAD = Style(color="red")
_PLAIN = Style(color="default", bold=False, dim=False)
_VERDICTS = {
    "verified": Style(color="green", bold=True),
    "weak": Style(color="yellow", bold=True),
    "refuted": _BAD + Style(bold=True),
}
"""Of labels that could be judged; the word itself says it without colour."""


def show(out: Path, hookpoint: str, latent: int) -> None:
    """Print a latent's label, scores, verdict, keys and held-out text.

    Parameters
    ----------
    out : Path
        Folder of a fitted run. Without `labeler verify` the card has no scores, without its --all
        no verdict, without the latent cache no text; it says so.
    hookpoint : str
        In any spelling (``layers.3.mlp``, ``blocks.3.hook_mlp_out``).
    latent : int

    Raises
    ------
    RunError
        If `out` is no run, or has no labels.
    OptionError
        If it has none of this hookpoint; names those it has.
    LabelError
        If the hookpoint has no such latent, or the labels cannot be read.
    """
    run = Run(out, quiet=True)
    (name,) = choose_hookpoints(out, hookpoint)
    labels = LabelSet.load(label_folder(out, name))
    labels.label(latent)  # refuses a number out of range before anything is loaded
    card, notes = _card(run, labels, latent)
    console = Console(highlight=False, emoji=False, markup=False)
    _print(console, card, notes)
    console.print(_provenance(labels, out, latent))


def _card(run: Run, labels: LabelSet, latent: int) -> tuple[Card, list[str]]:
    """The card, and what it lacks."""
    notes = []
    scores = read_scores(run.out, labels.hookpoint)
    if scores is None:
        notes.append(f"no scores: run `labeler verify --out {run.out}`")
    tried = read_tried(run.out, labels.hookpoint)
    if tried is None and scores is not None and labels.labeled[latent]:
        notes.append(f"no verdict: run `labeler verify --out {run.out} --all`")
    text, n_documents = None, 0
    try:
        heldout = run.tokens.heldout
        n_documents = len(np.unique(heldout.doc))
        firings = load_heldout_firings(run.cache, labels.hookpoint, run.tokens)
        text = (Sample.take(heldout, labels.shared), firings)
    except CacheError as error:
        notes.append(f"no text: {error}")
    (card,) = make_cards(
        labels,
        [latent],
        scores,
        n_documents=n_documents,
        text=text,
        seed=run.config.seed,
        tried=tried,
    )
    if text and not card["excerpts"]:
        notes.append("no text: it never fires in the held-out text searched")
    return card, notes


def _print(console: Console, card: Card, notes: list[str]) -> None:
    console.print(_title(card))
    console.print(_line(card["line"]))
    if card["weights"]:
        console.print(_line(card["weights"]), style=_SOFT)
    console.print()
    for line in _score_lines(card):
        console.print(line)
    if card["verdict"]:
        console.print()
        console.print(_verdict_line(card["verdict"]))
        if card["verdict"]["evidence"]:
            console.print(Text(_rates(card["verdict"]), style=_SOFT))
            console.print(_evidence(card["verdict"]))
    if card["key_rows"]:
        console.print()
        heading = f"{len(card['key_rows'])} heaviest of {card['n_keys']} keys"
        console.print(Text(heading, style=_SOFT))
        console.print(_keys(card))
        console.print(_line(card["code"]), style=_SOFT)
    elif card["candidates"]:
        console.print()
        console.print(Text("closest candidates", style=_SOFT))
        console.print(_candidates(card))
    if card["excerpts"]:
        # Without colour the marks carry what the colours do elsewhere.
        plain = console.color_system is None or console.no_color
        console.print()
        console.print(_legend(plain, labeled=card["status"] == "labeled"))
        for excerpt in card["excerpts"]:
            console.print(_excerpt_head(excerpt, labeled=card["status"] == "labeled"))
            console.print(Padding(_excerpt_text(excerpt, plain), (0, 0, 0, 2), expand=False))
    console.print()
    for note in notes:
        console.print(Text(note, style=_BAD))


def _title(card: Card) -> Text:
    title = Text(f"{card['hookpoint']} {card['latent']}", style=Style(bold=True))
    kind = card["function_type"] or card["status"].replace("_", " ")
    title.append(f"  {kind}", style=Style(bold=False) if card["function_type"] else _BAD)
    if card["live"] is False:
        title.append("  not live", style=_BAD)
    return title


def _line(segments: list[Segment]) -> Text:
    text = Text()
    for part in segments:
        text.append(f"`{part.text}`" if part.code else part.text, style=_KEY if part.code else None)
    return text


def _score_lines(card: Card) -> list[Text]:
    lines = []
    if scores := card["scores"]:
        documents = f"{card['n_documents']:,} held-out documents"
        first = Text(f"F1 {number(scores['f1'])}", style=Style(bold=True))
        low, high = number(scores["f1_low"]), number(scores["f1_high"])
        first.append(f" [{low}, {high}] on {documents}, {READABLE} keys", style=Style(bold=False))
        named = {
            "precision": number(scores["precision"]),
            "recall": number(scores["recall"]),
            "AUROC": number(scores["auroc"]),
            "r": number(scores["pearson"]),
            "false alarms": f"{number(scores['false_per_1000'], 1)} per 1,000",
        }
        lines += [first, Text("  ".join(f"{name} {value}" for name, value in named.items()))]
    held = f", {card['scores']['n_heldout']:,} held out" if card["scores"] else ""
    facts = f"fires at {card['n_fit']:,} positions of the fit split{held}"
    if card["status"] == "labeled":
        saved = f"saves {card['bits']:,.0f} bits, {card['net_bits']:,.0f} net"
        facts += f"; {saved}; says fires from {number(card['threshold'], 1)}"
    lines.append(Text(facts, style=_SOFT))
    return lines


def _verdict_line(verdict: Verdict) -> Text:
    line = Text(verdict["verdict"], style=_VERDICTS.get(verdict["verdict"], _SOFT))
    return line.append(f"  {verdict['reason']}", style=_PLAIN)


def _rates(verdict: Verdict) -> str:
    claim = f"{verdict['budget']} keys, whose fit claims F1 {number(verdict['claimed'])}"
    return f"own and control: F1 in heldout, shares of trials elsewhere; {claim}"


def _evidence(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("test", header_style=_SOFT, overflow="fold", max_width=24)
    for name in ("own", "control", "difference", "tried", "failed"):
        table.add_column(name, justify="right", header_style=_SOFT, no_wrap=True)
    for row in verdict["evidence"]:
        between = number(row["difference"])
        if not np.isnan(row["low"]):
            between += f" [{number(row['low'])}, {number(row['high'])}]"
        table.add_row(
            Text(row["test"]),
            number(row["own"]),
            number(row["control"]),
            between,
            f"{row['n']:,}",
            f"{row['failed']:,}",
        )
    return table


def _keys(card: Card) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("key", header_style=_SOFT, overflow="fold", max_width=34)
    for name in ("adds", "predicts", "fired", "seen"):
        table.add_column(name, justify="right", header_style=_SOFT, no_wrap=True)
    table.add_column("type", header_style=_SOFT)
    for row in card["key_rows"]:
        table.add_row(
            _line(row["text"]),
            f"{row['weight']:+.1f}",
            number(row["value"], 1),
            f"{row['firings']:,}",
            f"{row['n']:,}",
            row["type"] + ("" if row["fires"] else ", below threshold"),
            style=None if row["fires"] else _SOFT,
        )
    return table


def _candidates(card: Card) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("type", header_style=_SOFT, no_wrap=True)
    table.add_column("why it failed", header_style=_SOFT)
    for row in card["candidates"]:
        table.add_row(row["type"], row["why"])
    return table


def _legend(plain: bool, *, labeled: bool) -> Text:
    samples = [(1.0, 0, "it fires")]
    if labeled:
        samples += [(0.0, 1, "the label says so"), (1.0, 1, "both")]
    legend = Text().append("held-out text: ", style=_SOFT)
    for act, called, name in samples:
        piece = Piece(
            lead="",
            text=name,
            act=act,
            predicted=0.0,
            true_step=TRUE_STEPS if act else 0,
            called_step=called,
            focus=False,
        )
        legend.append_text(_marked(piece, plain)).append("  ")
    return legend.append("▸ the position meant", style=_SOFT)


def _excerpt_head(excerpt: Excerpt, *, labeled: bool) -> Text:
    if excerpt["kind"] == "bin":
        bounds = f"{number(excerpt['low'], 1)} to {number(excerpt['high'], 1)}"
        head = Text(bounds, style=Style(bold=True))
        found = percent(excerpt["n_called"] / excerpt["n"])
        many = f"{excerpt['n']:,} firing{'s' if excerpt['n'] > 1 else ''}"
        head.append(f"  {many}{f', {found} found' if labeled else ''}", style=_PLAIN_SOFT)
    else:
        name = {"false": "false alarm", "missed": "missed"}[excerpt["kind"]]
        head = Text(name, style=_BAD)
        head.append(f"  one of {excerpt['n']:,}", style=_PLAIN_SOFT)
    values = f"  true {number(excerpt['act'], 1)}"
    if labeled:
        values += f", label {number(excerpt['predicted'], 1)}"
    return head.append(values, style=_PLAIN_SOFT)


_PLAIN_SOFT = Style(color="default", bold=False, dim=True)
"""`_SOFT` that does not inherit the bold or the colour of what it follows."""


def _excerpt_text(excerpt: Excerpt, plain: bool) -> Text:
    text = Text("…" if excerpt["cut_before"] else "")
    for piece in excerpt["pieces"]:
        text.append(piece["lead"])
        text.append_text(_marked(piece, plain))
    return text.append("…" if excerpt["cut_after"] else "")


def _marked(piece: Piece, plain: bool) -> Text:
    """A token as it shows whether the latent fires and whether the label says so."""
    shown = piece["text"]
    if plain:
        shown = f"{{{shown}}}" if piece["called_step"] else shown
        shown = f"«{shown}»" if piece["true_step"] else shown
    marked = Text("▸" if piece["focus"] else "")
    style = Style(underline=bool(piece["called_step"]), bold=piece["focus"])
    if piece["true_step"]:
        share = (piece["true_step"] - 1) / (TRUE_STEPS - 1)
        red, green, blue = (
            round(faint + share * (full - faint)) for faint, full in zip(_FAINT, _FULL, strict=True)
        )
        style += Style(color="rgb(0,0,0)", bgcolor=f"rgb({red},{green},{blue})")
    return marked.append(shown, style=style)


def _provenance(labels: LabelSet, out: Path, latent: int) -> Text:
    manifest = labels.manifest
    hashes = " ".join(f"{name} {str(manifest[name])[:8]}" for name in ("model", "coder", "tokens"))
    again = shlex.join(["labeler", "export", labels.hookpoint, str(latent), "--out", str(out)])
    return Text(f"{hashes} fitted by {manifest['code']}\nas Python: {again}", style=_SOFT)
