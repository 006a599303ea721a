"""Reading Neuronpedia exports, OpenAI's neurons, annotations, the seed study; real data."""

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from labeler.errors import ExplanationError
from labeler.hookpoints import parse_hookpoint
from labeler.interop.neuronpedia import hookpoint_of_source
from labeler.interop.read import read_explanations
from labeler.interop.seed_results import read_turing_sequences


def write_lines(path: Path, records: list[Any]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


SOURCE = {"modelId": "gemma-2-2b", "layer": "5-gemmascope-mlp-16k"}


def neuronpedia_export(root: Path) -> Path:
    """A source as exported, of the fields that `export-data.py` writes."""
    explanations = [
        SOURCE
        | {"id": "a", "index": "0", "description": " months", "typeName": "oai_token-act-pair"}
        | {"explanationModelName": "gpt-4o-mini", "scoreV1": 0, "umap_x": 0.5},
        SOURCE | {"id": "b", "index": "1", "description": "<script>alert(1)</script>"},
    ]
    acts = [
        SOURCE | {"index": "0", "tokens": ["In", " May"], "values": [0, 2.5], "binContains": -1},
        SOURCE | {"index": "0", "tokens": ["to", " June"], "values": [0, 1], "binContains": 0.2},
        SOURCE | {"index": "7", "tokens": ["x"], "values": [3]},
        SOURCE | {"index": "7", "tokens": ["x", "y"], "values": [3]},
    ]
    write_lines(root / "explanations" / "batch-0.jsonl.gz", explanations[:1])
    write_lines(root / "explanations" / "batch-1.jsonl.gz", explanations[1:])
    write_lines(root / "activations" / "batch-0.jsonl.gz", acts)
    write_lines(root / "features" / "batch-0.jsonl.gz", [SOURCE | {"index": "0", "pos_str": []}])
    write_lines(root / "source.jsonl", [{"id": SOURCE["layer"], "modelId": "gemma-2-2b"}])
    return root


def test_a_neuronpedia_export(tmp_path: Path) -> None:
    found = read_explanations(neuronpedia_export(tmp_path))
    assert found.format == "neuronpedia"
    assert [(e.hookpoint, e.latent, e.text, e.author) for e in found.explanations] == [
        ("layers.5.mlp", 0, " months", "gpt-4o-mini"),
        ("layers.5.mlp", 1, "<script>alert(1)</script>", ""),
    ]
    assert found.explanations[0].published == {}
    assert [
        (place, c.tokens, c.acts.tolist(), c.chosen)
        for place, held in found.contexts.items()
        for c in held
    ] == [
        (("layers.5.mlp", 0), ("In", " May"), [0, 2.5], "top"),
        (("layers.5.mlp", 0), ("to", " June"), [0, 1], "quantile"),
        (("layers.5.mlp", 7), ("x",), [3], ""),
    ]
    (note,) = found.notes
    assert "1 records passed over: context with another number of activations" in note
    assert "activations/batch-0.jsonl.gz, line 4: 1 and 2" in note
    # One file alone, or a plain list as its pages give it.
    alone = read_explanations(tmp_path / "explanations" / "batch-1.jsonl.gz")
    assert [e.latent for e in alone.explanations] == [1]


def test_a_feature_as_neuronpedias_api_gives_it(tmp_path: Path) -> None:
    scores = [{"value": 0.8, "explanationScoreTypeName": "recall_alt"}, {"value": None}]
    feature = SOURCE | {
        "index": 3,
        "explanations": [{"description": "dogs", "scores": scores, "typeName": "np_max-act"}],
        "activations": [{"tokens": ["a"], "values": [1.0]}, "junk"],
    }
    path = tmp_path / "feature.json"
    path.write_text(json.dumps([feature]), encoding="utf-8")
    found = read_explanations(path)
    (one,) = found.explanations
    assert (one.hookpoint, one.latent, one.author) == ("layers.5.mlp", 3, "np_max-act")
    assert one.published == {"recall_alt": 0.8}
    assert len(found.contexts["layers.5.mlp", 3]) == 1
    assert "1 records passed over: record that is no JSON object" in found.notes[0]


@pytest.mark.parametrize(
    ("model", "source", "hookpoint"),
    [
        ("gemma-2-2b", "20-gemmascope-res-16k", "layers.20"),
        ("gemma-2-2b", "5-gemmascope-mlp-16k", "layers.5.mlp"),
        ("gemma-2-2b", "12-gemmascope-att-16k", "layers.12.self_attn.z"),
        ("gemma-2-2b", "20-gemmascope-transcoder-16k", "layers.20.mlp"),
        ("gemma-2-2b", "3-gemmascope-res-1m__l0-114", "layers.3"),
        ("llama3.1-8b", "31-llamascope-att-32k", "layers.31.self_attn"),
        ("qwen3-4b", "4-transcoder-hp", "layers.4.mlp"),
        ("llama3.1-8b-it", "3-resid-post-aa", "layers.3"),
        # As sae-lens lists them: hook_resid_pre, but hook_resid_post of the last block.
        ("gpt2-small", "6-res-jb", "layers.6.resid_pre"),
        ("gpt2-small", "0-res-jb", "layers.0.resid_pre"),
        ("gpt2-small", "12-res-jb", "layers.11"),
        ("gpt2-small", "8-res_fs768-jb", "layers.8.resid_pre"),
        ("gpt2-small", "6-res_sce-ajt", "layers.6.resid_pre"),
        ("gpt2-small", "6-res_post_32k-oai", "layers.6"),
        ("gpt2-small", "6-res_mid_32k-oai", "layers.6.resid_mid"),
        ("gpt2-small", "5-att-kk", "layers.5.self_attn.z"),
        ("gpt2-small", "5-att_32k-oai", "layers.5.self_attn"),
        ("gemma-2b", "6-res-jb", "layers.6"),
        ("", "6-res-jb", None),
        ("gemma-2-2b", "5-clt-hp", None),
        ("gemma-2-2b", "5", None),
    ],
)
def test_what_a_source_is(model: str, source: str, hookpoint: str | None) -> None:
    assert hookpoint_of_source(model, source) == hookpoint
    assert hookpoint is None or parse_hookpoint(hookpoint).name == hookpoint


def test_a_source_that_is_not_known_is_kept_or_named(tmp_path: Path) -> None:
    record = {"modelId": "m", "layer": "9-clt-hp", "index": "1", "description": "d"}
    path = write_lines(tmp_path / "a.jsonl", [record])
    found = read_explanations(path)
    assert found.explanations[0].hookpoint == "9-clt-hp"
    assert "kept as they stand: 9-clt-hp; --hookpoint says" in found.notes[0]
    found = read_explanations(path, hookpoint="layers.{layer}.mlp")
    assert found.explanations[0].hookpoint == "layers.9.mlp"


def record_of(words: str, acts: list[float]) -> dict[str, Any]:
    return {"dataclass_name": "ActivationRecord", "tokens": words.split(), "activations": acts}


def test_openai_neurons(tmp_path: Path) -> None:
    neuron = {"dataclass_name": "NeuronId", "layer_index": 2, "neuron_index": 9}
    simulation = {
        "ev_correlation_score": 0.5,
        "rsquared_score": None,
        "scored_sequence_simulations": [
            {"simulation": {"tokens": ["new", "text"]}, "true_activations": [0.0, -0.1]},
            # Known already, and known to be a strongest one.
            {"simulation": {"tokens": ["the", "cat"]}, "true_activations": [0.0, 2.0]},
        ],
    }
    results = {
        "dataclass_name": "NeuronSimulationResults",
        "neuron_id": neuron,
        "scored_explanations": [
            {"explanation": " cats", "scored_simulation": simulation},
            {"explanation": "dogs", "scored_simulation": None},
            "junk",
        ],
    }
    records = {
        "neuron_id": neuron,
        "mean": float("nan"),
        "random_sample": [record_of("no way", [0, 0])],
        "random_sample_by_quantile": [[record_of("a fox", [0, 1])]],
        "most_positive_activation_records": [record_of("the cat", [0, 2])],
    }
    write_lines(tmp_path / "explanations" / "2" / "9.jsonl", [results])
    path = tmp_path / "z" / "2" / "9.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    found = read_explanations(tmp_path)
    assert found.format == "openai"
    assert [(e.hookpoint, e.latent, e.text, dict(e.published)) for e in found.explanations] == [
        ("layers.2.mlp.hidden", 9, " cats", {"simulation ev_correlation_score": 0.5}),
        ("layers.2.mlp.hidden", 9, "dogs", {}),
    ]
    assert [(c.tokens[1], c.chosen) for c in found.contexts["layers.2.mlp.hidden", 9]] == [
        ("cat", "top"),
        ("way", "random"),
        ("fox", "quantile"),
        ("text", ""),
    ]
    # Where the record does not name its neuron, the path does.
    write_lines(tmp_path / "u" / "3" / "4.jsonl", [{"scored_explanations": [{"explanation": "e"}]}])
    (one,) = read_explanations(tmp_path / "u").explanations
    assert (one.hookpoint, one.latent) == ("layers.3.mlp.hidden", 4)


def test_annotations(tmp_path: Path) -> None:
    records: list[Any] = [
        {"Name": "resid_5/3036", "Annotation": "promotes verbs", "Notes": 'on "that"'},
        {"Name": "mlp_0/12", "Annotation": "plural nouns", "notes": ""},
        {"Name": "attn_4/7", "Annotation": "dogs"},
        {"Name": "embed/946", "Annotation": "'his'"},
        {"Name": "embed/3", "Component": "embed"},
        {"Name": "Name", "Annotation": "Annotation", "Notes": "Notes"},
    ]
    write_lines(tmp_path / "a.jsonl", records)
    joined = {
        "name": "resid_1/8",
        "annotation": None,
        "notes": None,
        "top_contexts": [[["a", " b"], [0.0, 2.0]], [["c"]]],
    }
    write_lines(tmp_path / "joined.jsonl", [joined])
    found = read_explanations(tmp_path)
    assert found.format == "annotations"
    assert [(e.hookpoint, e.latent, e.text, e.author) for e in found.explanations] == [
        ("layers.5", 3036, 'promotes verbs; on "that"', "human"),
        ("layers.0.mlp", 12, "plural nouns", "human"),
        ("layers.4.self_attn", 7, "dogs", "human"),
        ("embed", 946, "'his'", "human"),
    ]
    ((place, (context,)),) = found.contexts.items()
    assert (place, context.tokens, context.acts.tolist()) == (("layers.1", 8), ("a", " b"), [0, 2])
    assert context.chosen == "top"
    notes = "\n".join(found.notes)
    assert "form resid_0/2494 (first: " in notes
    assert "context that is no pair" in notes


def probe(**changes: Any) -> dict[str, Any]:
    return {
        "layer": 3,
        "latent_index": 9,
        "type": "top-token",
        "token": 545,
        "tokens": None,
        "topics": None,
        "is_variant": False,
        "text": "The doctor.",
        "activation_value": 1.0,
        "activation_distance": 0.5,
        "success": True,
    } | changes


def test_results_of_the_seed_study(tmp_path: Path) -> None:
    pair = {"type": "connecting-tokens", "token": None, "tokens": [545, 7]}
    topic = {"type": "detecting-dataset-topic", "token": None, "topics": ["Law", "Art"]}
    records = [
        probe(),
        probe(success=False, activation_value=0.0, is_variant=True),
        probe(**pair),
        probe(**topic),
        probe(success="yes"),
    ]
    path = write_lines(tmp_path / "eval_results.jsonl.gz", records)
    found = read_explanations(path)
    assert [(e.hookpoint, e.latent, e.text) for e in found.explanations] == [
        ("layers.3.mlp", 9, "the token with id 545"),
        ("layers.3.mlp", 9, "the tokens with ids 545 and 7"),
        ("layers.3.mlp", 9, "texts of the topics Law, Art"),
    ]
    assert found.explanations[0].published == {"success": 0.5, "mean activation": 0.5, "probes": 2}
    assert found.explanations[0].author == "seed study, top-token"
    assert any("probe without an activation or without a success" in note for note in found.notes)


@pytest.fixture
def turing(tmp_path: Path) -> tuple[Path, Path, Tokenizer]:
    """Top sequences of 12 layers and 3 latents, two of each, of 4 tokens."""
    vocab = {"[U]": 0, "\u2581the": 1, "\u2581cat": 2, "s": 3}
    ids = np.zeros((12, 3, 2, 5), dtype=np.int32)
    acts = np.zeros((12, 3, 2, 5), dtype=np.float32)
    ids[..., 0], acts[..., 0] = 77, 99  # the data set, and what is to be dropped
    ids[4, 1] = [[77, 1, 2, 3, 9], [77, 1, 1, 1, 1]]
    acts[4, 1] = [[99, 0, 2.5, 0, 0], [99, 0, 0, 0, 1]]
    for name, data in (("tokens", ids), ("values", acts)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["tensor"] = data
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[U]"))
    return tmp_path / "tokens.h5", tmp_path / "values.h5", tokenizer


def test_top_sequences_of_turing_llm(turing: tuple[Path, Path, Tokenizer]) -> None:
    found = read_turing_sequences(*turing, 4, [1, 2])
    assert list(found) == [("layers.4.mlp", 1), ("layers.4.mlp", 2)]
    first, second = found["layers.4.mlp", 1]
    assert first.tokens == (" the", " cat", "s", "<id 9>")
    assert first.acts.tolist() == [0, 2.5, 0, 0]
    assert second.acts.tolist() == [0, 0, 0, 1]
    assert first.chosen == "top"


def test_sequences_that_are_none(turing: tuple[Path, Path, Tokenizer], tmp_path: Path) -> None:
    tokens, values, tokenizer = turing
    with pytest.raises(ExplanationError, match="layers 0 to 11, not 12"):
        read_turing_sequences(tokens, values, tokenizer, 12, [0])
    with pytest.raises(ExplanationError, match="latents 0 to 2, not -1"):
        read_turing_sequences(tokens, values, tokenizer, 0, [-1])
    with pytest.raises(ExplanationError, match="of floats"):
        read_turing_sequences(tokens, tokens, tokenizer, 0, [0])
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["tensor"] = np.zeros((12, 2, 2, 5), dtype=np.float32)
    with pytest.raises(ExplanationError, match="must be of one export"):
        read_turing_sequences(tokens, other, tokenizer, 0, [0])
    with h5py.File(values, "a") as file:
        file["tensor"][4, 1, 0, 2] = np.nan
    with pytest.raises(ExplanationError, match="latent 1 has activations not finite"):
        read_turing_sequences(tokens, values, tokenizer, 4, [1])
    values.write_bytes(values.read_bytes()[:300])
    with pytest.raises(ExplanationError, match="cannot be read"):
        read_turing_sequences(tokens, values, tokenizer, 4, [1])


@pytest.mark.parametrize("kind", ["external link", "external storage", "virtual", "absent"])
def test_sequences_of_other_files_are_not_read(
    turing: tuple[Path, Path, Tokenizer], tmp_path: Path, kind: str
) -> None:
    tokens, values, tokenizer = turing
    shape = (12, 3, 2, 5)
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        if kind == "external link":
            file["tensor"] = h5py.ExternalLink(values, "tensor")
        elif kind == "external storage":
            secret = tmp_path / "secret"
            secret.write_bytes(b"\0" * 1440)
            file.create_dataset("tensor", shape, np.float32, external=[(secret, 0, 1440)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.float32)
            layout[:] = h5py.VirtualSource(values, "tensor", shape)
            file.create_virtual_dataset("tensor", layout)
    with pytest.raises(ExplanationError, match="no dataset `tensor` of its own"):
        read_turing_sequences(tokens, path, tokenizer, 4, [1])


@pytest.mark.shared
def test_the_real_annotations(shared_data: Path) -> None:
    folder = shared_data / "pythia-70m-annotations"
    joined = read_explanations(folder / "joined.jsonl")
    assert (len(joined.explanations), len(joined.contexts)) == (45, 73)
    held = [context for one in joined.contexts.values() for context in one]
    assert len(held) == 730
    assert sum(int((context.acts > 0).sum()) for context in held) == 5125
    assert sum(not (context.acts > 0).any() for context in held) == 25
    everything = read_explanations(folder)
    assert len({(e.hookpoint, e.latent) for e in everything.explanations}) == 276


@pytest.mark.shared
def test_the_real_results_of_the_seed_study(shared_data: Path) -> None:
    found = read_explanations(shared_data / "seed-results")
    assert len(found.explanations) == 4810
    assert sum(e.published["probes"] for e in found.explanations) == 6696
    weighted = [e.published["success"] * e.published["probes"] for e in found.explanations]
    assert sum(weighted) == pytest.approx(2499)
