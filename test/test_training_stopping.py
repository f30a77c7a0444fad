"""Early stopping: a training ends when its held-out error no longer falls, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, List, Optional

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("cv2")

from training_toys import assert_same, begin_after, fresh_accelerator, last, recipe, settings  # noqa: F401

from mf_ros.errors import ConfigError
from mf_training.loop import Tally
from mf_training.run import Summary, train

SCORES = [0.9, 0.8, 0.7999, 0.85, 0.7995, 0.7, 0.6, 0.5]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations have results that are told: the n-th of a run is that of step n."""

    def judged(self: Tally, ratio: Optional[float], min_gain: float, judge: Any = Tally.judge) -> bool:
        return bool(judge(self, SCORES[self.step - 1], min_gain))

    monkeypatch.setattr(Tally, "judge", judged)


def trained(out: Path, **changes: Any) -> Summary:
    return train(settings(out, **{"steps": 8, "eval_every": 1, "save_every": 1, "keep": 99, **changes}), recipe())


def judged(ratios: List[Optional[float]], min_gain: float) -> List[int]:
    """How many evaluations in a row brought nothing, after each."""
    tally = Tally()

    def waits() -> Iterator[int]:
        for tally.step, ratio in enumerate(ratios, 1):
            tally.judge(ratio, min_gain)
            yield tally.waited

    return list(waits())


def test_only_a_gain_above_the_least_counts() -> None:
    assert judged([1.0, 0.995, 0.991, 0.989, 0.989], min_gain=0.01) == [0, 1, 2, 0, 1]
    assert judged([1.0, 0.995, 0.991, 0.989, 0.989], min_gain=0.0) == [0, 0, 0, 0, 1]
    assert judged([1.0, float("nan"), None, 0.5], min_gain=0.0) == [0, 1, 1, 0]


def test_the_best_is_kept_by_the_smallest_gain() -> None:
    tally = Tally()
    kept = []
    for tally.step, ratio in enumerate([1.0, 0.999, 0.9995, 0.998], 1):
        kept.append(tally.judge(ratio, 0.5))
    assert kept == [True, True, False, True] and (tally.best_step, tally.best_ratio) == (4, 0.998)


@pytest.mark.usefixtures("scored")
def test_training_stops_after_as_many_evaluations_as_it_has_patience(tmp_path: Path) -> None:
    stopped = trained(tmp_path, patience=3)
    assert (stopped.reason, stopped.tally.step, stopped.tally.waited) == ("plateau", 5, 3)
    assert (stopped.tally.best_step, last(tmp_path).step) == (5, 5), "0.7995 is the best, if hardly"
    assert trained(tmp_path / "other", patience=0).reason == "finished"


@pytest.mark.usefixtures("scored")
def test_a_run_stopped_and_continued_waits_as_long_as_one_that_was_not(tmp_path: Path) -> None:
    trained(tmp_path / "whole", patience=3)
    for step in range(1, 5):
        begin_after(tmp_path / "whole" / f"step_{step:08d}", tmp_path / f"after {step}")
        assert trained(tmp_path / f"after {step}", patience=3).reason == "plateau"
        assert_same(tmp_path / "whole", tmp_path / f"after {step}")


@pytest.mark.usefixtures("scored")
def test_a_run_on_a_plateau_goes_on_when_it_is_asked_to_only(tmp_path: Path) -> None:
    trained(tmp_path / "out", patience=3)
    again = trained(tmp_path / "out", patience=3)
    assert (again.reason, again.tally.step) == ("plateau", 5)
    assert trained(tmp_path / "out", patience=4).reason == "finished"
    trained(tmp_path / "never", patience=0)
    assert_same(tmp_path / "out", tmp_path / "never")


def test_patience_without_held_out_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is held out: set patience=0"):
        trained(tmp_path, patience=3, data__scenes__heldout=0)


def test_a_run_from_before_there_was_patience_goes_on(tmp_path: Path) -> None:
    trained(tmp_path, steps=2)
    path = last(tmp_path).path / "state.json"
    state = json.loads(path.read_text())
    for group, names in (
        ("tally", ("gained_ratio", "waited")),
        ("config", ("patience", "min_gain", "sharding", "lora")),
    ):
        for name in names:
            del state[group][name]
    path.write_text(json.dumps(state))
    assert trained(tmp_path, steps=2).reason == "finished"


@pytest.mark.usefixtures("scored")
def test_the_command_says_what_happened_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    from mf_training.settings import dump_train_config

    monkeypatch.setattr("mf_training.run.default_recipe", recipe)
    file, out = tmp_path / "toy.yaml", tmp_path / "out"
    file.write_text(dump_train_config(settings(out, steps=8, eval_every=1)))
    for form in ([file, "patience=3"], ["patience=3", "--config", file]):
        outcome = run("train", *form)
        assert outcome.code == 0
        assert "Stopped at step 5, as the held-out error did not get better by min_gain in 3 evaluations" in outcome.out
        assert (
            f"it does not go on by itself: mf-ros train {'--config ' if form[0] != file else ''}{file}" in outcome.out
        )
        assert outcome.out.splitlines()[-2].endswith("patience=3 patience=0")
        assert outcome.out.splitlines()[-1] == f"Next: mf-ros export {out} --out MODEL"


def test_a_command_without_settings_says_how_they_are_named(run: Any) -> None:
    for words in ([], ["init=nano"]):
        outcome = run("train", *words)
        assert outcome.code == 2 and outcome.err.count("\n") == 1
        assert "write mf-ros train CONFIG KEY=VALUE ..., or mf-ros train --config CONFIG" in outcome.err
    outcome = run("train", "--config", "nano", "posttrain")
    assert outcome.code == 2 and "'posttrain' is no setting: write key=value" in outcome.err
