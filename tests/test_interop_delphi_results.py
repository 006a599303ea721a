"""Reading delphi's explanations and scores, written here in its layout, and a real run."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from labeler.errors import ExplanationError
from labeler.interop.delphi_results import HIGHLIGHT
from labeler.interop.read import read_explanations


def example(
    words: str, acts: list[float], activating: bool, prediction: bool | None = True, **more: Any
) -> dict[str, Any]:
    """One entry of a score file, with the fields of delphi's ClassifierOutput."""
    return {
        "str_tokens": words.split(),
        "activations": acts,
        "distance": 0 if activating else -1.0,
        "activating": activating,
        "prediction": prediction,
        "probability": None,
        "correct": None if prediction is None else prediction == activating,
    } | more


def write_run(root: Path, name: str, text: str | None, scores: dict[str, list[Any]]) -> Path:
    if text is not None:
        folder = root / "explanations"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(json.dumps(text), encoding="utf-8")
    for scorer, items in scores.items():
        folder = root / "scores" / scorer
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(json.dumps(items), encoding="utf-8")
    return root


def test_a_run_by_hand(tmp_path: Path) -> None:
    detection = [
        example("the cat", [0.0, 2.0], True, True),
        example("a dog", [0.0, 1.0], True, False),
        example("a fox", [0.0, 4.0], True, None),
        # What a neighbour fires, stored beside a text on which this latent is silent.
        example("one day", [3.0, 0.0], False, False),
        example("no way", [0.0, 0.0], False, False),
    ]
    run = write_run(tmp_path, "model.layers.1.mlp_latent12", "animals", {"detection": detection})
    write_run(tmp_path, "model.layers.1.mlp_latent3", "trees", {})
    (tmp_path / "run_config.json").write_text('{"explainer_model": "llama"}', encoding="utf-8")
    found = read_explanations(run)
    assert found.format == "delphi"
    assert [(e.hookpoint, e.latent, e.text, e.author) for e in found.explanations] == [
        ("layers.1.mlp", 3, "trees", "llama"),
        ("layers.1.mlp", 12, "animals", "llama"),
    ]
    assert found.explanations[0].published == {}
    # Of four answered three are right; 1 of 2 activating and 2 of 2 others; F1 2 x 1 / (1 + 2).
    assert found.explanations[1].published == {
        "detection examples": 5,
        "detection failed": 1,
        "detection accuracy": 0.75,
        "detection balanced accuracy": 0.75,
        "detection f1": pytest.approx(2 / 3),
    }
    contexts = found.contexts["layers.1.mlp", 12]
    assert [(c.tokens, c.acts.tolist(), c.chosen) for c in contexts] == [
        (("the", "cat"), [0, 2], "quantile"),
        (("a", "dog"), [0, 1], "quantile"),
        (("a", "fox"), [0, 4], "quantile"),
        (("one", "day"), [0, 0], "random"),
        (("no", "way"), [0, 0], "random"),
    ]
    assert found.notes == ()
    # Pointed at its explanations only, there are neither scores nor contexts.
    assert read_explanations(run / "explanations").contexts == {}


def test_balanced_accuracy_and_f1_are_sklearns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fires, called = rng.random(60) < 0.3, rng.random(60) < 0.6
    items = [
        example(f"text {row}", [0.0, float(fire)], bool(fire), bool(call))
        for row, (fire, call) in enumerate(zip(fires, called, strict=True))
    ]
    run = write_run(tmp_path, "layers.0_latent0", "x", {"fuzz": items})
    published = read_explanations(run).explanations[0].published
    assert published["fuzz balanced accuracy"] == pytest.approx(
        balanced_accuracy_score(fires, called)
    )
    assert published["fuzz f1"] == pytest.approx(f1_score(fires, called))
    assert published["fuzz accuracy"] == pytest.approx((fires == called).mean())


def test_fuzzing_of_activating_texts_does_not_make_them_silent(tmp_path: Path) -> None:
    # fuzz_type "active": the text of an activating example, with other tokens marked.
    items = [
        example("the cat", [0.0, 2.0], False, False),
        example("the cat", [0.0, 2.0], True, True),
    ]
    found = read_explanations(write_run(tmp_path, "layers.0_latent0", "x", {"fuzz": items}))
    (context,) = found.contexts["layers.0", 0]
    assert context.acts.tolist() == [0, 2]
    assert found.notes == ()  # nothing was given twice: the text is known to fire


def test_values_without_an_activation_function(tmp_path: Path) -> None:
    items = [
        example("a b c d", [-3.0, 10.0, 2.9, 3.0], True),
        example("e f g h", [-1.0, -2.0, 1.0, -0.5], True),
    ]
    write_run(tmp_path, "layers.0_latent0", "x", {"detection": items})
    # A latent that happens to have no negative value is of the same run.
    write_run(tmp_path, "layers.0_latent1", "y", {"detection": [example("i j", [1.0, 0.1], True)]})
    # Another hookpoint, of a coder with an activation function: sparse, one value below zero.
    items = [example("a b c d", [0.0, 0.1, 9.0, 0.0], True), example("k l", [0.0, -1.0], True)]
    write_run(tmp_path, "layers.1_latent0", "z", {"detection": items})
    found = read_explanations(tmp_path)
    first, second = found.contexts["layers.0", 0]
    assert HIGHLIGHT == 0.3
    assert first.acts.tolist() == [0, 10, 0, 3]
    assert second.acts.tolist() == [0, 0, 0, 0]
    assert found.contexts["layers.0", 1][0].acts.tolist() == [1, 0]
    assert found.contexts["layers.1", 0][0].acts.tolist() == pytest.approx([0, 0.1, 9, 0])
    assert found.contexts["layers.1", 0][1].acts.tolist() == [0, 0]
    assert [note.split(":")[0] for note in found.notes if "activation function" in note] == [
        "layers.0"
    ]


def test_scores_of_one_kind_only_are_not_balanced(tmp_path: Path) -> None:
    items = [example("the cat", [0.0, 2.0], True, True), example("a dog", [0.0, 1.0], True, False)]
    found = read_explanations(write_run(tmp_path, "layers.0_latent0", "x", {"detection": items}))
    published = found.explanations[0].published
    assert published["detection accuracy"] == 0.5
    assert "detection balanced accuracy" not in published
    assert any("one kind of examples only" in note for note in found.notes)


def test_a_run_in_which_every_answer_failed_has_no_accuracy(tmp_path: Path) -> None:
    items = [example("the cat", [0.0, 2.0], True, None)]
    found = read_explanations(write_run(tmp_path, "layers.0_latent0", "x", {"detection": items}))
    assert found.explanations[0].published == {"detection examples": 1, "detection failed": 1}


def test_an_answer_of_minus_one_is_a_failure(tmp_path: Path) -> None:
    # The intruder scorer: the number of an example, -1 where none could be read.
    items = [{"prediction": one, "correct": one == 3} for one in (3, 0, -1)]
    found = read_explanations(write_run(tmp_path, "layers.0_latent0", "x", {"intruder": items}))
    assert found.explanations[0].published == {
        "intruder examples": 3,
        "intruder failed": 1,
        "intruder accuracy": 0.5,
    }


def test_two_dashes_stand_for_a_slash(tmp_path: Path) -> None:
    items = [example("the cat", [0.0, 2.0], True)]
    name = "layer_12--width_16k--average_l0_22_latent7"
    found = read_explanations(write_run(tmp_path, name, "x", {"detection": items}))
    assert list(found.contexts) == [("layer_12/width_16k/average_l0_22", 7)]


def test_a_scorer_that_marks_wrong_answers_right_is_told(tmp_path: Path) -> None:
    items = [example("the cat", [0.0, 2.0], True, False, correct=True)]
    found = read_explanations(write_run(tmp_path, "layers.0_latent0", "x", {"detection": items}))
    assert any("1 examples whose field correct contradicts" in note for note in found.notes)


def test_simulation(tmp_path: Path) -> None:
    def simulated(words: str, acts: list[int], distance: int) -> dict[str, Any]:
        simulation = {"tokens": words.split(), "expected_activations": [0.0] * len(acts)}
        return {"distance": distance, "simulation": simulation, "true_activations": acts}

    items = [
        {
            "distance": 3,
            "scored_sequence_simulations": [simulated("the cat", [0, 7], 2)],
            "ev_correlation_score": "nan",
        },
        {
            "distance": 0,
            "scored_sequence_simulations": [
                simulated("the cat", [0, 7], 2),
                simulated("one day", [0, 0], -1),
            ],
            "ev_correlation_score": 0.25,
        },
        {"distance": 2, "scored_sequence_simulations": [], "ev_correlation_score": 0.5},
    ]
    found = read_explanations(write_run(tmp_path, "layers.0_latent0", "x", {"simulation": items}))
    assert found.explanations[0].published == {"simulation ev_correlation_score": 0.25}
    assert [(c.acts.tolist(), c.chosen) for c in found.contexts["layers.0", 0]] == [
        ([0, 7], "quantile"),
        ([0, 0], "random"),
    ]
    # Without examples on which the latent is silent, delphi gives quantiles only.
    write_run(tmp_path, "layers.0_latent0", "x", {"simulation": [items[0], items[2]]})
    published = read_explanations(tmp_path).explanations[0].published
    assert published == {"simulation mean ev_correlation_score": 0.5}


def test_damaged_files_of_a_run_are_counted(tmp_path: Path) -> None:
    good = [example("the cat", [0.0, 2.0], True)]
    bad = [
        example("two words", [1.0], True),
        example("two words", [1.0, float("inf")], True),
        example("two words", [1.0, True], True),
        example("", [], True),
    ]
    write_run(tmp_path, "layers.0_latent0", "x", {"detection": good + bad})
    write_run(tmp_path, "layers.0_latent1", "y", {})
    (tmp_path / "explanations" / "layers.0_latent2.txt").write_text('"cut', encoding="utf-8")
    (tmp_path / "explanations" / "layers.0_latent3.txt").write_text("[1]", encoding="utf-8")
    (tmp_path / "scores" / "detection" / "layers.0_latent1.txt").write_text("{}", encoding="utf-8")
    found = read_explanations(tmp_path)
    assert [e.text for e in found.explanations] == ["x", "y"]
    assert len(found.contexts["layers.0", 0]) == 1
    notes = "\n".join(found.notes)
    for fault in (
        "file that is not JSON",
        "explanation that is no text",
        "score file that holds no list",
        "context with another number of activations than of tokens",
        "activation that is not finite",
        "activation that is no number",
        "context of no tokens",
    ):
        assert f"1 records passed over: {fault}" in notes
    for file in (tmp_path / "explanations").iterdir():
        file.write_text("vLLM connection error", encoding="utf-8")
    for file in (tmp_path / "scores" / "detection").iterdir():
        file.unlink()
    with pytest.raises(ExplanationError, match=r"none of 4 records.*file that is not JSON"):
        read_explanations(tmp_path)


@pytest.mark.slow
def test_ten_thousand_files(tmp_path: Path) -> None:
    folder = tmp_path / "explanations"
    folder.mkdir()
    for latent in range(10_000):
        (folder / f"layers.0_latent{latent}.txt").write_text(f'"text {latent}"', encoding="utf-8")
    started = time.process_time()
    found = read_explanations(tmp_path)
    assert [e.latent for e in found.explanations] == list(range(10_000))
    assert time.process_time() - started < 10


@pytest.mark.shared
def test_the_real_run(shared_data: Path) -> None:
    found = read_explanations(shared_data / "delphi-run-sample", contexts_per_latent=50)
    assert len(found.explanations) == 10
    failed = [e for e in found.explanations if "connection error" in e.text]
    assert len(failed) == 6
    # Nobody asked a model about an explanation that had failed.
    assert all(e.published["detection failed"] == 50 for e in failed)
    assert all("detection accuracy" not in e.published for e in failed)
    assert {place: len(held) for place, held in found.contexts.items()} == {
        (e.hookpoint, e.latent): 50 for e in found.explanations
    }
    # The coder's k of 32 in 400 latents is 0.08 of all tokens; so is this on the average.
    shares = [
        np.mean([act > 0 for context in held for act in context.acts])
        for held in found.contexts.values()
    ]
    assert np.mean(shares) == pytest.approx(0.087, abs=0.001)
    assert {context.chosen for held in found.contexts.values() for context in held} == {"quantile"}
