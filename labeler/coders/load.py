"""Finding and loading the sparse coders of a model."""

from collections.abc import Sequence
from pathlib import Path

from labeler.coders.coder import Coder
from labeler.coders.sparsify import load_sparsify
from labeler.errors import CoderError
from labeler.hookpoints import parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import looks_local


def load_coders(
    source: str | Path, *, model: SubjectModel, hookpoints: Sequence[str] | None = None
) -> dict[str, Coder]:
    """Load the sparse coders of a model.

    Parameters
    ----------
    source : str or Path
        A folder with one sub-folder per hookpoint (``layers.3.mlp/cfg.json``), one such
        sub-folder, or a hub name.
    model : SubjectModel
        The model they belong to; sizes are checked against it.
    hookpoints : sequence of str, optional
        Which to load, in any spelling; all where None.

    Returns
    -------
    dict of str to Coder
        By canonical hookpoint name, in layer order.

    Raises
    ------
    CoderError
        If nothing is there, a file is damaged or malformed, a coder does not fit the model, or a
        hookpoint asked for is not among those found.
    """
    wanted = None if hookpoints is None else [parse_hookpoint(text).name for text in hookpoints]
    local = looks_local(str(source))
    root = Path(source).expanduser() if local else _download(str(source), wanted)
    folders = _by_hookpoint(_find_folders(root))
    if wanted is not None:
        if unknown := [name for name in wanted if name not in folders]:
            found = ", ".join(sorted(folders, key=parse_hookpoint))
            raise CoderError(
                f"no coder for hookpoint {', '.join(unknown)} in {source}; found: {found}"
            )
        folders = {name: folders[name] for name in wanted}
    coders = [load_sparsify(folder, model) for folder in folders.values()]
    coders.sort(key=lambda coder: coder.hookpoint)
    return {coder.hookpoint.name: coder for coder in coders}


def _find_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise CoderError(
            f"coder folder {root} does not exist; give a folder with one sub-folder per hookpoint "
            "(layers.3.mlp/cfg.json and sae.safetensors) or a hub name"
        )
    if (root / "cfg.json").is_file():
        return [root.resolve()]
    folders = sorted(path.parent for path in root.glob("*/cfg.json"))
    if not folders:
        raise CoderError(
            f"no sparse coder in {root}: no sub-folder holds a cfg.json; expected sparsify's "
            "layout, layers.3.mlp/cfg.json and layers.3.mlp/sae.safetensors"
        )
    return folders


def _by_hookpoint(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by canonical hookpoint name, which their own name says in some spelling."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            name = parse_hookpoint(folder.name).name
        except CoderError as error:
            raise CoderError(
                f"{folder} holds a coder, but its name does not say where: {error}"
            ) from None
        if name in found:
            raise CoderError(f"{found[name]} and {folder} are both for {name}; remove one")
        found[name] = folder
    return found


def _download(name: str, wanted: Sequence[str] | None) -> Path:
    """Fetch a hub repository, or only the folders of the hookpoints asked for."""
    from huggingface_hub import list_repo_files, snapshot_download

    patterns = ["*cfg.json", "*.safetensors"]
    try:
        if wanted is not None:
            files = [Path(file) for file in list_repo_files(name)]
            folders = [
                file.parent for file in files if file.name == "cfg.json" and file.parent.name
            ]
            chosen = _by_hookpoint(folders)
            patterns = [
                "*cfg.json",
                *(f"{folder}/*" for at, folder in chosen.items() if at in wanted),
            ]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except CoderError:
        raise
    except Exception as error:
        # The hub client raises its own, requests' and the operating system's types.
        raise CoderError(
            f"cannot fetch the coder {name} from the hub: {type(error).__name__}: {error}; "
            "give a local folder, or check the name and the connection"
        ) from error
