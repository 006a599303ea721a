"""OpenAI's neuron explanations and neuron records (openai/automated-interpretability).

``explanations/<layer>/<neuron>.jsonl`` (`NeuronSimulationResults`) and
``collated-activations/<layer>/<neuron>.json`` (`NeuronRecord`), or either alone.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from labeler.explanations import Place
from labeler.interop.bounded import Json, keys_of
from labeler.interop.checks import (
    DamagedError,
    context_of,
    fields_of,
    latent_of,
    number_of,
    text_of,
)
from labeler.interop.collect import Collector

_KEYS = frozenset({"scored_explanations", "most_positive_activation_records", "neuron_id"})
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_SCORES = ("ev_correlation_score", "rsquared_score", "absolute_dev_explained_score")


def owns(file: Path) -> bool:
    """Whether a file has the fields of a neuron's record or of its scored explanations."""
    return file.name.endswith(_SUFFIXES) and bool(keys_of(file) & _KEYS)


def read(root: Path, files: Sequence[Path], into: Collector) -> None:
    """Read both kinds of records; `NeuronRecord` first, since it says why a text was chosen."""
    explained = {file: "scored_explanations" in keys_of(file) for file in files}
    for file in into.through(sorted(files, key=explained.__getitem__)):
        into.each(file, partial(_take, file=file, into=into))


def _take(record: dict[str, Json], where: str, file: Path, into: Collector) -> None:
    layer, neuron = _neuron(record, file)
    # GPT-2's MLP neurons, after the activation function.
    place = (into.place_of(str(layer), f"layers.{layer}.mlp.hidden"), neuron)
    for chosen, stored in _stored(record):
        with into.counting(where):
            one = fields_of(stored)
            context = context_of(one.get("tokens"), one.get("activations"), chosen)
            into.add_context(place, context)
    for number, scored in enumerate(_list(record.get("scored_explanations")), 1):
        at = f"{where}, explanation {number}"
        with into.counting(at):
            _explained(place, fields_of(scored), at, into)


def _neuron(record: dict[str, Json], file: Path) -> tuple[int, int]:
    """Layer and neuron: of the record, or else of a path ``<layer>/<neuron>.json``."""
    said = record.get("neuron_id")
    if isinstance(said, dict):
        return latent_of(said.get("layer_index")), latent_of(said.get("neuron_index"))
    layer, neuron = file.absolute().parent.name, file.name.split(".")[0]
    if not (layer.isdigit() and neuron.isdigit()):
        raise DamagedError("record without a neuron_id")
    return latent_of(layer), latent_of(neuron)


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _stored(record: dict[str, Json]) -> Iterator[tuple[str, Json]]:
    """Activation records of a `NeuronRecord`, each with why it was chosen."""
    for chosen, field in (("top", "most_positive_activation_records"), ("random", "random_sample")):
        yield from ((chosen, one) for one in _list(record.get(field)))
    for quantile in _list(record.get("random_sample_by_quantile")):
        yield from (("quantile", one) for one in _list(quantile))


def _explained(place: Place, scored: dict[str, Json], where: str, into: Collector) -> None:
    simulation = scored.get("scored_simulation")
    result = simulation if isinstance(simulation, dict) else {}
    into.add(
        *place,
        text_of(scored.get("explanation"), "explanation"),
        published={
            f"simulation {name}": value
            for name in _SCORES
            if (value := number_of(result.get(name))) is not None
        },
        origin=where,
    )
    for sequence in _list(result.get("scored_sequence_simulations")):
        with into.counting(where):
            _simulated(place, fields_of(sequence), into)


def _simulated(place: Place, sequence: dict[str, Json], into: Collector) -> None:
    """Take the text of a simulation. Half of them are strongest, half random; which is not said."""
    simulation = fields_of(sequence.get("simulation"))
    into.add_context(
        place, context_of(simulation.get("tokens"), sequence.get("true_activations"), "")
    )
