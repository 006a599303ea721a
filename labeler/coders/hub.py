"""Coders from the Hugging Face hub: only the files that are coders, only those asked for."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from labeler.coders.formats import FORMATS
from labeler.errors import CoderError

_CONFIG = "cfg.json"
_FILES = ("params.npz", ".pt", ".pth", ".pkl.gz")
"""Ends of the names of coders that are one file."""


def download(name: str, wanted: Sequence[str] | None) -> Path:
    """Fetch the coders of a hub repository.

    Parameters
    ----------
    name : str
        ``owner/repository``, or a folder in it: ``owner/repository/layer_20/width_16k``.
    wanted : sequence of str or None
        Canonical names of hookpoints; coders whose path says that they are elsewhere stay there.
        All where None.

    Returns
    -------
    Path
        The local folder.

    Raises
    ------
    CoderError
        If the hub cannot be reached, or has several coders for one place.
    """
    parts = name.split("/")
    repository, within = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        return Path(_fetched(repository, within, wanted)) / within
    except CoderError:
        raise
    except Exception as error:
        # The hub client raises its own, requests' and the operating system's types.
        raise CoderError(
            f"cannot fetch the coder {name} from the hub: {type(error).__name__}: {error}; "
            "give a local folder, or check the name and the connection"
        ) from error


def _fetched(repository: str, within: str, wanted: Sequence[str] | None) -> str:
    """The local copy of a repository, with the files that were chosen."""
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        files = [PurePosixPath(file) for file in list_repo_files(repository)]
    except OfflineModeIsEnabled:
        # What was fetched before.
        return str(snapshot_download(repository, local_files_only=True))
    chosen = _chosen(repository, within, files, wanted)
    if not chosen:
        raise CoderError(
            f"no file in {repository}{within and '/'}{within} is named like a sparse coder's"
            f"{' at ' + ', '.join(wanted) if wanted else ''}"
        )
    return str(snapshot_download(repository, allow_patterns=chosen))


def _chosen(
    repository: str, within: str, files: Sequence[PurePosixPath], wanted: Sequence[str] | None
) -> list[str]:
    """Patterns of what to fetch."""
    patterns: list[str] = []
    places: dict[str, PurePosixPath] = {}
    for file in files:
        is_folder = file.name == _CONFIG and file.parent.name != ""
        if not file.is_relative_to(within) or not (is_folder or file.name.endswith(_FILES)):
            continue
        path = file.parent if is_folder else file
        place = _place(Path(repository) / path)
        if place is not None and wanted is not None and place not in wanted:
            continue
        if place is not None and place in places:
            raise CoderError(
                f"{repository} has several coders for {place}: {places[place]}, {path}, ...; "
                f"name the folder of one, such as {repository}/{path.parent}"
            )
        if place is not None:
            places[place] = path
        patterns.append(f"{path}/*" if is_folder else str(path))
    return patterns


def _place(path: Path) -> str | None:
    """What the path alone says."""
    found = (one.place(path) for one in FORMATS)
    return next((place.name for place in found if place is not None), None)
