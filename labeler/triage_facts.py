"""What the triage looks at: firings, scores and labels of a hookpoint, as arrays by latent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from labeler.analysis import TypeScores, family_of, looks_ahead, read_labels
from labeler.arrays import Bools, Doubles, Longs
from labeler.errors import LabelError
from labeler.fitted import MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.statistics import LatentFirings, load_fit_firings
from labeler.store import read_json
from labeler.summary import read_heldout
from labeler.threads import map_threads

WEAK_F1 = 0.5
"""F1 below which the label of READABLE keys counts as weak."""

DENSE = 0.1
"""Share of positions above which a latent counts as dense."""

FAINT = 0.5
"""A firing is faint below this share of the latent's mean activation where it fires."""

_AT_ONCE = 128
"""Latents compared with all others at once."""


class Doubled(NamedTuple):
    """The most similar latent among those that fire more, by cosine of activations.

    Attributes
    ----------
    cosine : float64 [n_latents]
        0 where none fires together with it, or it was not asked about.
    other : int64 [n_latents]
        That latent.
    """

    cosine: Doubles
    other: Longs


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that the reasons look at; arrays are by latent.

    Attributes
    ----------
    latents : polars.DataFrame
        Of the labels.
    n_positions : int
        Positions of the fit split.
    rare, labeled, open : bool
        Too rare to fit; with a label; it fires, but has no label or a weak one.
    f1, f1_whole, pearson : float64
        Of the label of READABLE keys, of the whole table, and of the former: held out, or on the
        fit split where there is too little held-out text; the correlation is 0 there.
    density, faint : float64
        Share of positions at which it fires; share of faint firings.
    doubled : Doubled
        Only of open latents that are neither rare nor dense.
    later, sooner : float64
        Most net bits saved by a type that looks ahead, and by one that does not.
    bits, net_bits : float64
        Most saved by any type.
    leads : str
        Family of the winning type, or of the one with most net bits.
    families : list of str
    weight : float64 [n_families, n_latents]
        Share of each family in the weight (sum of |weight| * n) of the label of READABLE keys.
    """

    latents: pl.DataFrame
    n_positions: int
    rare: Bools
    labeled: Bools
    open: Bools
    f1: Doubles
    f1_whole: Doubles
    pearson: Doubles
    density: Doubles
    faint: Doubles
    doubled: Doubled
    later: Doubles
    sooner: Doubles
    bits: Doubles
    net_bits: Doubles
    leads: npt.NDArray[np.str_]
    families: list[str]
    weight: Doubles

    @property
    def count(self) -> Longs:
        """Firings in the fit split, int64 [n_latents]."""
        return self.latents["n_fit"].to_numpy()

    def row(self, latent: int) -> dict[str, Any]:
        """The latent's row of the labels."""
        return self.latents.row(latent, named=True)


def gather(
    latents: pl.DataFrame,
    scores: TypeScores,
    entries: pl.DataFrame,
    heldout: pl.DataFrame | None,
    firings: LatentFirings,
    n_positions: int,
    advance: Callable[[float], None] = lambda share: None,
) -> Facts:
    """Everything that the reasons look at.

    Parameters
    ----------
    latents, scores, entries : polars.DataFrame, TypeScores, polars.DataFrame
        Of the labels.
    heldout : polars.DataFrame or None
        Held-out scores, a row per latent and budget; None before `labeler verify`.
    firings : LatentFirings
        Of all latents on the fit split.
    n_positions : int
        Positions of the fit split.
    advance : callable
        Told each share of the work as it is done; the shares add up to 1.
    """
    ahead = np.array([looks_ahead(name) for name in scores.types])
    labeled = (latents["status"] == "labeled").to_numpy()
    rare = (latents["status"] == "too_rare").to_numpy()
    f1 = _heldout(heldout, str(READABLE), "f1", latents[f"f1_fit_{READABLE}"])
    open_ = (latents["n_fit"] > 0).to_numpy() & ~(labeled & (f1 >= WEAK_F1))
    density = latents["n_fit"].to_numpy() / n_positions
    best = np.array(scores.types)[scores.net_bits.argmax(axis=0)]
    lead = np.where(labeled, latents["function_type"].to_numpy(), best)
    families, weight = family_weights(entries, len(latents))
    return Facts(
        latents=latents,
        n_positions=n_positions,
        rare=rare,
        labeled=labeled,
        open=open_,
        f1=f1,
        f1_whole=_heldout(heldout, "unlimited", "f1", latents["f1_out_of_fold"]),
        pearson=_heldout(heldout, str(READABLE), "pearson", latents["n_fit"] * 0),
        density=density,
        faint=faint_share(firings),
        doubled=find_doubles(firings, np.flatnonzero(open_ & ~rare & (density <= DENSE)), advance),
        later=_most(scores.net_bits[ahead]),
        sooner=_most(scores.net_bits[~ahead]),
        bits=_most(scores.bits),
        net_bits=_most(scores.net_bits),
        leads=np.array([family_of(str(name)) for name in lead]),
        families=families,
        weight=weight,
    )


def _heldout(heldout: pl.DataFrame | None, budget: str, score: str, fallback: pl.Series) -> Doubles:
    """A held-out score by latent; the fallback where it was not measured or on too little."""
    fit = fallback.to_numpy().astype(np.float64)
    if heldout is None:
        return fit
    mine = heldout.filter(pl.col("budget") == budget).sort("latent")
    enough = mine["n_heldout"].to_numpy() >= MIN_HELDOUT_FIRINGS
    return np.where(enough, np.nan_to_num(mine[score].to_numpy()), fit)


def _most(bits: Doubles) -> Doubles:
    """Most saved by any of the types [n_types, n_latents]; 0 where every one loses."""
    most: Doubles = bits.max(axis=0, initial=0)
    return most


def faint_share(firings: LatentFirings) -> Doubles:
    """Share of each latent's firings that are faint, float64 [n_latents]."""
    column, n = firings.column, firings.n_latents
    count = np.maximum(np.diff(firings.start), 1)
    mean = np.bincount(column, weights=firings.act, minlength=n) / count
    faint: Doubles = np.bincount(column[firings.act < FAINT * mean[column]], minlength=n) / count
    return faint


def find_doubles(
    firings: LatentFirings, asked: Longs, advance: Callable[[float], None] = lambda share: None
) -> Doubled:
    """For each latent `asked` about, the most similar one that fires more.

    Of two that fire equally often, the one with the lower number counts as firing more.
    """
    n = firings.n_latents
    n_positions = int(firings.position.max(initial=0)) + 1
    acts = sparse.csc_matrix((firings.act, firings.position, firings.start), shape=(n_positions, n))
    by_position = acts.tocsr()
    norm = np.sqrt(np.bincount(firings.column, firings.act.astype(np.float64) ** 2, minlength=n))
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(-np.diff(firings.start), kind="stable")] = np.arange(n)
    cosine, other = np.zeros(n), np.zeros(n, dtype=np.int64)

    def compare(part: Longs) -> None:
        product = (acts[:, part].T @ by_position).toarray()
        product /= np.maximum(norm[part, None] * norm, 1e-12)
        product[rank >= rank[part, None]] = 0
        other[part] = product.argmax(axis=1)
        cosine[part] = product.max(axis=1, initial=0)
        advance(len(part) / len(asked))

    map_threads(compare, [asked[at : at + _AT_ONCE] for at in range(0, len(asked), _AT_ONCE)])
    return Doubled(cosine, other)


def family_weights(entries: pl.DataFrame, n_latents: int) -> tuple[list[str], Doubles]:
    """Families in the labels of READABLE keys, and their shares [n_families, n_latents].

    Shares of the weight, sum of |weight| * n; 0 for latents without entries.
    """
    short = entries.filter(pl.col("budget") == READABLE)
    of_level = {name: family_of(name) for name in short["level"].unique()}
    families = sorted(set(of_level.values()))
    row = np.array([families.index(of_level[name]) for name in short["level"]], dtype=np.int64)
    mass = (short["weight"].abs() * short["n"]).to_numpy()
    weight = np.zeros((len(families), n_latents))
    np.add.at(weight, (row, short["latent"].to_numpy()), mass)
    return families, weight / np.maximum(weight.sum(axis=0), 1e-12)


def load_facts(
    run: Run, hookpoint: str, advance: Callable[[float], None] = lambda share: None
) -> Facts:
    """`gather` from the files of a run.

    Raises
    ------
    LabelError, CacheError, RunError
        If a file is missing or damaged, or the scores are of other labels.
    """
    folder = label_folder(run.out, hookpoint)
    latents = LabelSet.load_latents(folder)
    manifest = read_json(folder / "manifest.json", LabelError, "run `labeler fit`")
    scored = run.out / "verify" / hookpoint / "latents.parquet"
    return gather(
        latents,
        TypeScores.load(folder),
        read_labels(folder, "entries"),
        read_heldout(run.out, hookpoint) if scored.exists() else None,
        load_fit_firings(run.cache, hookpoint, run.tokens),
        manifest["n_positions_fit"],
        advance,
    )
