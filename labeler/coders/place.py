"""Where a coder sits: said by its files, by its path, or by the user."""

from pathlib import Path

from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, parse_hookpoint


def hookpoint_at(path: Path, found: Hookpoint | None, where: str | None) -> Hookpoint:
    """Where a coder sits, by its files or by the user.

    Parameters
    ----------
    path : Path
        The coder, for messages.
    found : Hookpoint or None
        What its files say.
    where : str or None
        What the user says, in any spelling; it is the place that is read and written: only files
        can say that a coder is a transcoder.

    Raises
    ------
    CoderError
        If neither says it, or the user names the input of a module, which stands for a transcoder.
    """
    if found is not None:
        return found
    if where is None:
        raise CoderError(
            f"{path} does not say where in the model it belongs; name one --hookpoint, such as "
            "layers.3 or blocks.3.hook_mlp_out, or keep the names of its files and folders as "
            "they were published"
        )
    place = parse_hookpoint(where, transcode=False)
    if place.name != parse_hookpoint(where).name:
        raise CoderError(
            f"{where} stands for what a transcoder maps to {parse_hookpoint(where).name}, and the "
            f"coder in {path} is taken for an autoencoder; write {place.name} for that place alone"
        )
    return place
