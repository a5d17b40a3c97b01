import warnings
from math import log

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from evaluation.metrics import accuracy, evaluate, log_loss, reliability, validate
from task1a.errors import InputError
from task1a.predict.predictions import label_columns
from task1a.predict.predictions import read as read_predictions

LN2 = log(2)
CERTAIN_MISS = 52 * LN2  # the smallest probability is float64's eps, 2 ** -52


def score(logloss, percent):
    return {"logloss": pytest.approx(logloss, abs=1e-12), "accuracy": pytest.approx(percent, abs=1e-12)}


def large_set(clips=2968, seed=0):
    """As many clips as the test split has, every class on every device, probabilities rounded as in a file."""
    generator = np.random.default_rng(seed)
    labels = [f"scene_{letter}" for letter in "abcdefghij"]
    devices = ["a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6"]
    names = [f"audio/{number}.wav" for number in range(clips)]
    truth = [labels[number % 10] for number in range(clips)]
    probabilities = generator.dirichlet(np.full(10, 0.3), clips).astype(np.float32)
    probabilities[:10], probabilities[10:20] = np.eye(10), np.eye(10)[::-1]
    decided = np.array(labels)[probabilities.argmax(axis=1)]
    reference = pd.DataFrame({"filename": names, "scene_label": truth,
                              "device": [devices[number // 10 % 9] for number in range(clips)]})
    rounded = {label: [float(f"{p:.9g}") for p in column]
               for label, column in zip(labels, probabilities.T, strict=True)}
    return reference, pd.DataFrame({"filename": names, "scene_label": decided, **rounded})


def test_values_worked_out_by_hand(reference, predictions):
    results = evaluate(reference, predictions, seen_devices={"a", "b", "s1", "s9"})
    assert list(results) == ["labels", "devices", "overall", "class_wise", "device_wise", "class_device_wise",
                             "device_groups", "intervals", "calibration", "confusion", "highest_losses",
                             "probability_0"]
    assert results["labels"] == ["bus", "park", "tram"]
    assert results["devices"] == ["a", "b", "s1", "s4"]
    assert results["overall"] == score((8 * LN2 + CERTAIN_MISS) / 8, (75 + 100 / 3 + 100) / 3)
    assert results["class_wise"] == {"bus": score(4 * LN2 / 4, 75), "tram": score(LN2, 100),
                                     "park": score((3 * LN2 + CERTAIN_MISS) / 3, 100 / 3)}
    assert results["device_wise"] == {"a": score(4 * LN2 / 3, 75), "b": score(CERTAIN_MISS, 0),
                                      "s1": score(3 * LN2 / 2, 50), "s4": score(LN2 / 2, 100)}
    assert results["class_device_wise"] == {
        "bus": {"a": score(3 * LN2 / 2, 50), "b": None, "s1": score(LN2, 100), "s4": score(0, 100)},
        "park": {"a": score(LN2, 100), "b": score(CERTAIN_MISS, 0), "s1": score(2 * LN2, 0), "s4": None},
        "tram": {"a": None, "b": None, "s1": None, "s4": score(LN2, 100)},
    }
    assert results["device_groups"] == {"real": score((4 * LN2 + CERTAIN_MISS) / 4, 50),
                                        "seen": score((7 * LN2 + CERTAIN_MISS) / 6, 50), "unseen": score(LN2 / 2, 100)}


def test_clips_that_need_a_look_are_named(reference, predictions):
    results = evaluate(reference, predictions)
    assert results["probability_0"] == ["audio/park-oslo-2-1-b.wav"]
    assert results["highest_losses"][0] == {
        "filename": "audio/park-oslo-2-1-b.wav", "device": "b", "scene_label": "park", "decided": "bus",
        "probability": 0, "logloss": pytest.approx(CERTAIN_MISS)}
    assert [clip["logloss"] for clip in results["highest_losses"]] == sorted(
        (clip["logloss"] for clip in results["highest_losses"]), reverse=True)
    assert results["confusion"] == {"bus": {"bus": 3, "park": 1, "tram": 0}, "park": {"bus": 1, "park": 1, "tram": 1},
                                    "tram": {"bus": 0, "park": 0, "tram": 1}}


def test_every_score_has_the_interval_of_its_clips(reference, predictions):
    assert evaluate(reference, predictions)["intervals"]["overall"] is None  # there are no locations
    located = reference.assign(identifier=[f"oslo-{number}" for number in range(8)])
    results = evaluate(located, predictions)
    assert results["intervals"].keys() == {"overall", "class_wise", "device_wise", "class_device_wise", "device_groups"}
    # park: one of three right, each at a location of its own
    park = results["intervals"]["class_wise"]["park"]
    margin = 100 * scipy.stats.t.ppf(0.975, 2) * np.sqrt(2 / 9 / 3 * 3 / 2)
    assert park["accuracy"] == (0, pytest.approx(min(100, 100 / 3 + margin)))
    assert results["intervals"]["class_wise"]["tram"] == {"logloss": None, "accuracy": None}
    assert results["intervals"]["class_device_wise"]["park"]["s4"] is None


def test_clips_are_matched_by_name_with_or_without_folder(reference, predictions):
    shuffled = predictions.iloc[::-1].assign(filename=lambda table: table.filename.str.removeprefix("audio/"))
    columns = ["tram", "filename", "bus", "scene_label", "park"]
    assert evaluate(reference, shuffled[columns]) == evaluate(reference, predictions)


def test_accuracy_takes_the_decided_label_not_the_most_probable(reference, predictions):
    predictions.loc[0, "scene_label"] = "tram"
    results = evaluate(reference, predictions)
    assert results["class_wise"]["bus"] == score(LN2, 50)


def test_confidence_is_the_probability_of_the_predicted_label(reference, predictions):
    """The tram has 1/4 in the first clip, the bus 1/2; its bin moves from (7 of 15) to (3 of 15), and it is wrong."""
    before = {point["from"]: point for point in evaluate(reference, predictions)["calibration"]["bins"]}
    predictions.loc[0, "scene_label"] = "tram"
    calibration = evaluate(reference, predictions)["calibration"]
    after = {point["from"]: point for point in calibration["bins"]}
    assert (after[20]["clips"], after[20]["confidence"], after[20]["accuracy"]) == (1, 25, 0)
    assert after[100 * 7 / 15]["clips"] == before[100 * 7 / 15]["clips"] - 1
    # 1 clip: |0 - 25|; 5 clips with 1/2, 3 of them right: |60 - 50|; 2 clips with 1, one of them right: |50 - 100|
    assert calibration["expected_calibration_error"] == pytest.approx((25 + 5 * 10 + 2 * 50) / 8)


@pytest.mark.parametrize(("seen", "loss_of_seen", "loss_of_unseen"), [
    ({"s4"}, LN2 / 2, (7 * LN2 + CERTAIN_MISS) / 6),
    ({"a", "s4", "s6"}, 5 * LN2 / 5, (3 * LN2 + CERTAIN_MISS) / 3),
])
def test_devices_are_seen_if_they_are_in_the_training_split(reference, predictions, seen, loss_of_seen, loss_of_unseen):
    """Whatever their names."""
    groups = evaluate(reference, predictions, seen_devices=seen)["device_groups"]
    assert (groups["seen"]["logloss"], groups["unseen"]["logloss"]) == pytest.approx((loss_of_seen, loss_of_unseen))


@pytest.mark.parametrize(("rename", "simulated", "loss_of_real"), [
    ({}, None, (4 * LN2 + CERTAIN_MISS) / 4),  # a and b
    ({"s1": "s21"}, None, (7 * LN2 + CERTAIN_MISS) / 6),  # a telephone
    ({}, [False] * 8, (8 * LN2 + CERTAIN_MISS) / 8),
    ({}, [True, True, True, False, False, False, True, True], (3 * LN2 + CERTAIN_MISS) / 3),  # b and s1
])
def test_devices_are_real_unless_the_reference_says_otherwise(reference, predictions, rename, simulated, loss_of_real):
    reference = reference.replace({"device": rename})
    if simulated:
        reference["simulated"] = simulated
    assert evaluate(reference, predictions)["device_groups"]["real"]["logloss"] == pytest.approx(loss_of_real)


def test_empty_groups_and_labels_without_clips_have_no_score(reference, predictions):
    predictions.insert(2, "airport", 0.0)
    results = evaluate(reference, predictions)
    assert results["device_groups"]["seen"] is None and results["device_groups"]["unseen"] is None
    assert results["class_wise"]["airport"] is None
    assert results["overall"]["accuracy"] == pytest.approx((75 + 100 / 3 + 100) / 3)
    assert evaluate(reference, predictions, seen_devices=set())["device_groups"]["seen"] is None
    only = reference.device == "s1"
    assert evaluate(reference[only], predictions[only])["device_groups"]["real"] is None


def test_every_subset_has_the_scores_of_scikit_learn():
    reference, predictions = large_set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = evaluate(reference, predictions, seen_devices=["a", "b", "c", "s1", "s2", "s3"])
    device, scene = reference.device, reference.scene_label

    def expected(clips):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns of rows that do not sum to 1 exactly
            loss = sklearn.metrics.log_loss(scene[clips], predictions.loc[clips, labels].to_numpy(), labels=labels)
            return score(loss, 100 * sklearn.metrics.balanced_accuracy_score(scene[clips], decided[clips]))

    labels, decided = results["labels"], predictions.scene_label
    assert results["overall"] == expected(scene.notna())
    for label in labels:
        assert results["class_wise"][label] == expected(scene == label)
        for name in results["devices"]:
            assert results["class_device_wise"][label][name] == expected((scene == label) & (device == name))
    for name in results["devices"]:
        assert results["device_wise"][name] == expected(device == name)
    groups = {"real": ["a", "b", "c"], "seen": ["a", "b", "c", "s1", "s2", "s3"], "unseen": ["s4", "s5", "s6"]}
    for group, members in groups.items():
        assert results["device_groups"][group] == expected(device.isin(members))


def test_log_loss_of_float32_is_that_of_the_file_it_is_written_to():
    assert log_loss(["b"], np.array([[1, 0]], dtype=np.float32), ["a", "b"]) == pytest.approx(CERTAIN_MISS)
    with pytest.raises(InputError, match="true label 'c' is none of the labels"):
        log_loss(["a", "c"], np.full((2, 2), 0.5), ["a", "b"])


@pytest.mark.parametrize(("true", "decided", "expected"), [
    (["a", "a", "a", "b"], ["a", "a", "a", "a"], 50),  # over classes, not clips
    (["a"], ["a"], 100),
    (["a", "b"], ["c", "b"], 50),  # c, which has no clip, has no accuracy
    (["none", " none"], ["none", "none"], 50),  # labels are compared as they are
])
def test_accuracy_by_hand(true, decided, expected):
    assert accuracy(true, decided) == expected


@pytest.mark.parametrize("clips, classes", [(1, 10), (49, 3), (50, 10), (51, 12), (301, 25)])
def test_accuracy_is_that_of_numpy_to_the_last_digit(clips, classes):
    """In the order in which the classes appear: the sum of rounded numbers depends on their order."""
    generator = np.random.default_rng(clips)
    true, decided = generator.integers(0, classes, (2, clips)).astype(str)
    expected = np.mean([np.mean(decided[true == label] == label) for label in dict.fromkeys(true)])
    assert accuracy(true, decided) == 100 * expected


def test_read_predictions(tmp_path):
    path = tmp_path / "test.csv"
    path.write_bytes(b"filename\tscene_label\ttram\tbus\r\naudio/0.wav\tbus\t1e-3\t0.999\r\n")
    table = read_predictions(path)
    assert label_columns(table) == ["bus", "tram"]
    assert table.to_dict("records") == [{"filename": "audio/0.wav", "scene_label": "bus", "tram": 0.001, "bus": 0.999}]


@pytest.mark.parametrize("text", ["0,5", "", "0_1", "\uff11", "nan", "1" * 100_000 + "x"])
def test_probabilities_must_be_decimal_numbers(tmp_path, text):
    path = tmp_path / "test.csv"
    path.write_text(f"filename\tscene_label\tbus\n0.wav\tbus\t1\n1.wav\tbus\t{text}\n", encoding="utf-8")
    with pytest.raises(InputError, match="test.csv: line 3: column 'bus': .* is not a number") as error:
        read_predictions(path)
    assert len(str(error.value)) < 600


def test_what_is_no_prediction_table_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file; it must be a prediction file"):
        read_predictions(tmp_path / "nowhere.csv")


def swap(table, row, column, value):
    table = table.copy()
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(("spoil_reference", "spoil_predictions", "message"), [
    (None, lambda p: p.drop(columns="scene_label"), "predictions: no column 'scene_label'"),
    (lambda r: r.drop(columns="device"), None, "reference: no column 'device'"),
    (lambda r: r[:0], None, "reference: no clip"),
    (None, lambda p: p[:0], "predictions: no clip"),
    (None, lambda p: swap(p, 1, "filename", "./audio//bus-oslo-1-0-a.wav"), "predictions: 1 clip listed more"),
    (lambda r: pd.concat([r, r[:1]]), None, "reference: 1 clip listed more than once: bus-oslo-1-0-a.wav"),
    (None, lambda p: swap(p, 1, "filename", "bus-oslo-1-0-a.wav"), "predictions: 1 clip listed more than once"),
    (None, lambda p: p[4:], "predictions: missing 4 of 8 clips of the reference: bus-oslo-1-0-a.wav, "
                            "bus-oslo-1-1-a.wav, park-oslo-2-0-a.wav, ...; predict"),
    (lambda r: r[1:], None, "predictions: 1 clip not in the reference: bus-oslo-1-0-a.wav; predict"),
    (None, lambda p: swap(p, 7, "filename", "x.wav"), "missing 1 of 8 clips of the reference: tram.*; 1 clip not in "
                                                      "the reference: x.wav"),
    (None, lambda p: p.drop(columns=["bus", "tram"]), "no column .* for 2 scene labels of the reference: bus, tram"),
    (None, lambda p: swap(p, 2, "scene_label", "zoo"), "audio/park-oslo-2-0-a.wav: scene_label 'zoo' has no column"),
    (None, lambda p: swap(p, 0, "park", np.nan), "bus-oslo-1-0-a.wav: the probability of park is not a finite number"),
    (None, lambda p: swap(p, 0, "park", np.inf), "the probability of park is not a finite number: inf"),
    (None, lambda p: swap(p, 0, "tram", -0.25), "the probability of tram is not between 0 and 1: -0.25"),
    (None, lambda p: swap(p, 3, "bus", 1.0005), "the probability of bus is not between 0 and 1: 1.0005"),
    (None, lambda p: swap(p, 0, "bus", 0.502), "bus-oslo-1-0-a.wav: the probabilities sum to 1.002 instead of 1"),
])
def test_validation_says_what_is_wrong_with_which_input(reference, predictions, spoil_reference, spoil_predictions,
                                                        message):
    reference = spoil_reference(reference) if spoil_reference else reference
    predictions = spoil_predictions(predictions) if spoil_predictions else predictions
    with pytest.raises(InputError, match=message) as error:
        validate(reference, predictions)
    assert "\n" not in str(error.value)


def test_validation_allows_rounding(reference, predictions):
    validate(reference, swap(predictions, 0, "bus", 0.4995))


def test_reliability_by_hand():
    predicted, truth = ["bus", "bus", "park", "park"], ["bus", "park", "park", "bus"]
    found = reliability(predicted, truth, np.array([0.5, 0.52, 1.0, 0.95]))
    used = {index: point for index, point in enumerate(found["bins"]) if point["clips"]}
    assert len(found["bins"]) == 15 and used.keys() == {7, 14}
    assert used[7] == {"from": pytest.approx(100 * 7 / 15), "to": pytest.approx(100 * 8 / 15), "clips": 2,
                       "confidence": pytest.approx(51), "accuracy": 50}
    assert used[14]["confidence"] == pytest.approx(97.5) and used[14]["accuracy"] == 50
    assert found["expected_calibration_error"] == pytest.approx(0.5 * 1 + 0.5 * 47.5)


def test_a_perfectly_calibrated_predictor_has_no_error():
    found = reliability(["bus"] * 10, ["bus"] * 8 + ["park"] * 2, np.full(10, 0.8))
    assert found["expected_calibration_error"] == pytest.approx(0)
