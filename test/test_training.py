"""Trainings of a tiny network: they learn, stop at any moment, and go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("cv2")
pytest.importorskip("rosbags")

import numpy as np
import torch
from safetensors.torch import load_file
from training_toys import (
    assert_close,
    assert_same,
    build,
    fresh_accelerator,  # noqa: F401
    in_processes,
    last,
    loss_that_breaks,
    loss_without_noise,
    open_broken,
    recipe,
    settings,
)

from mf_ros.cli.main import main
from mf_ros.errors import ConfigError
from mf_training.checkpoints import CheckpointError, latest_checkpoint
from mf_training.data import DataError, shape_of
from mf_training.loop import Status, TrainingError
from mf_training.run import train

TOYS = Path(__file__).with_name("training_toys.py")
SEED_OF_TWO_SHAPES = 0


def stop_at(step: int, number: signal.Signals) -> Callable[[Status], None]:
    def report(status: Status) -> None:
        if status.step == step:
            os.kill(os.getpid(), number)

    return report


def test_two_hundred_steps_lower_the_held_out_error(tmp_path: Path) -> None:
    seen: List[Status] = []
    summary = train(settings(tmp_path, steps=200, eval_every=50, save_every=100), recipe(), seen.append)
    assert summary.reason == "finished" and summary.tally.step == 200 and summary.tally.samples == 400
    first = next(status.ratio for status in seen if status.ratio is not None)
    assert summary.tally.ratio is not None and summary.tally.ratio < 0.8 < first, "1 is the prior"
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert all(0 <= status.waiting <= 1 and status.samples_per_s > 0 for status in seen)


def test_the_best_average_is_kept_with_its_scores(tmp_path: Path) -> None:
    summary = train(settings(tmp_path, steps=60, eval_every=20), recipe())
    best = tmp_path / f"best_{summary.tally.best_step:08d}"
    state = json.loads((best / "state.json").read_text())
    assert state["scores"]["ratio"] == state["scores"]["planes/ratio"] == summary.tally.best_ratio
    assert load_file(best / "ema.safetensors").keys() == build({"width": 8}).state_dict().keys()


def test_operations_are_counted_by_the_shape_of_the_batch(tmp_path: Path) -> None:
    summary = train(settings(tmp_path, steps=3, accumulate=2, data__shapes=[[16, 32]]), recipe())
    forward = 2 * 16 * 32 * 2 * (5 * 8 + 8 * 8 + 8)
    # The backward pass costs twice the forward one, but for the inputs, which need no gradient.
    backward = 2 * forward - 2 * 16 * 32 * 2 * 5 * 8
    assert summary.tally.flops == 3 * 2 * (forward + backward)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_by_a_signal_goes_on_bit_for_bit(tmp_path: Path, number: signal.Signals, optimiser: str) -> None:
    def config(out: str) -> Any:
        return settings(tmp_path / out, optimiser__name=optimiser, log_every=1, accumulate=2)

    train(config("whole"), recipe())
    stopped = train(config("parts"), recipe(), stop_at(5, number))
    assert stopped.reason == "interrupted" and last(tmp_path / "parts").step == 5
    assert train(config("parts"), recipe()).reason == "finished"
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_counting_operations_leaves_gathered_gradients_alone(tmp_path: Path) -> None:
    def config(out: str) -> Any:
        return settings(tmp_path / out, accumulate=2, save_every=1, seed=SEED_OF_TWO_SHAPES)

    assert shape_of(config(""), 0) != shape_of(config(""), 1), "the second shape is met within the first step"
    counted = train(config("counted"), recipe())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mf_training.loop.Trainer._flops_of", lambda self, batch: 0.0)
        train(config("plain"), recipe())
    ours, theirs = last(tmp_path / "counted").tensors("model"), last(tmp_path / "plain").tensors("model")
    assert counted.tally.flops > 0 and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    run = {"out": str(tmp_path / "killed"), "steps": 120, "optimiser__name": "adamw"}
    process = subprocess.Popen([sys.executable, str(TOYS), json.dumps([run])])
    try:
        deadline = time.monotonic() + 60
        while latest_checkpoint(tmp_path / "killed") is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert 0 < last(tmp_path / "killed").step < 120
    config = settings(tmp_path / "killed", steps=120, optimiser__name="adamw")
    train(config, recipe(loss_of=loss_without_noise))
    train(dataclasses.replace(config, out=str(tmp_path / "whole")), recipe(loss_of=loss_without_noise))
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_runs_with_a_time_budget_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path / "parts", steps=12, minutes=1e-9)
    assert train(config, recipe()).reason == "minutes", "the time was over before the first step"
    assert last(tmp_path / "parts").step == 0
    clock, late = time.monotonic, [0.0]
    monkeypatch.setattr("mf_training.loop.time.monotonic", lambda: clock() + late[0])

    def an_hour_passes(status: Status) -> None:
        late[0] += 3600

    assert train(dataclasses.replace(config, minutes=30.0), recipe(), an_hour_passes).reason == "minutes"
    assert last(tmp_path / "parts").step == 4, "the first report comes after four steps"
    assert train(dataclasses.replace(config, minutes=0.0), recipe()).reason == "finished"
    train(settings(tmp_path / "whole"), recipe())
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    first = train(settings(tmp_path), recipe())
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.safetensors"))
    again = train(settings(tmp_path), recipe())
    assert again.reason == "finished" and again.tally.step == first.tally.step
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.safetensors")) == before


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    train(settings(tmp_path, save_every=2, keep=3, eval_every=100), recipe())
    assert sorted(path.name for path in tmp_path.glob("step_*")) == [f"step_{n:08d}" for n in (8, 10, 12)]


def test_a_checkpoint_half_there_is_passed_over_and_reached_again(tmp_path: Path) -> None:
    train(settings(tmp_path / "whole"), recipe())
    train(settings(tmp_path / "broken"), recipe())
    (last(tmp_path / "broken").path / "ema.safetensors").write_bytes(b"")
    assert last(tmp_path / "broken").step == 8
    train(settings(tmp_path / "broken"), recipe())
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_a_loss_that_is_no_number_stops_the_run_and_saves_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path, steps=200, save_every=1, log_every=7, eval_every=100)
    with pytest.raises(TrainingError, match=r"At step \d+ the loss is nan: samples \d+ to \d+ \(planes") as caught:
        train(config, recipe(loss_of=loss_that_breaks))
    step = int(str(caught.value).split()[2])
    assert last(tmp_path).step == step - 1 > 0
    assert all(value.isfinite().all() for kind in ("model", "ema") for value in last(tmp_path).tensors(kind).values())
    with pytest.raises(TrainingError, match=f"At step {step} the loss is nan"):
        train(config, recipe(loss_of=loss_that_breaks))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__width": 16}, "another model .width is 8 there and 16 here"),
        ({"batch": 3, "resume": True, "model__width": 16}, "another model"),
        ({"batch": 3}, "other settings .batch."),
        ({"resume": False}, "already holds a training"),
    ],
)
def test_a_folder_of_another_training_is_refused(tmp_path: Path, changes: Any, words: str) -> None:
    train(settings(tmp_path, steps=2), recipe())
    with pytest.raises((ConfigError, CheckpointError), match=words):
        train(settings(tmp_path, **{"steps": 2, **changes}), recipe())


def test_a_state_that_does_not_say_how_far_the_run_was_is_refused(tmp_path: Path) -> None:
    train(settings(tmp_path, steps=2), recipe())
    path = last(tmp_path).path / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "tally": {"steps": 2}}))
    with pytest.raises(CheckpointError, match="does not say how far the run was"):
        train(settings(tmp_path, steps=2), recipe())


def test_resume_true_goes_on_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        train(settings(tmp_path, resume=True), recipe())
    train(settings(tmp_path, steps=4), recipe())
    summary = train(settings(tmp_path, steps=6, batch=5, resume=True), recipe())
    assert (summary.tally.step, summary.tally.samples) == (6, 4 * 2 + 2 * 5)


def test_a_run_starts_from_given_weights(tmp_path: Path) -> None:
    train(settings(tmp_path / "first"), recipe())
    train(settings(tmp_path / "second", init=str(tmp_path / "first"), steps=1, optimiser__lr=1e-12), recipe())
    first, second = last(tmp_path / "first").tensors("ema"), last(tmp_path / "second").tensors("model")
    assert all(torch.allclose(first[key], second[key], atol=1e-8) for key in first)
    with pytest.raises(CheckpointError, match=r"first\.weight is \(8, 5\) there and \(16, 5\) here"):
        train(settings(tmp_path / "third", init=str(tmp_path / "first"), model__width=16), recipe())


def test_a_small_state_is_resumed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mf_training.checkpoints.SMALL_SHARD_BYTES", 500)
    for out, small in (("small", True), ("full", False)):
        train(settings(tmp_path / out, steps=4, state_small=small, optimiser__name="adamw"), recipe())
    small, full = last(tmp_path / "small"), last(tmp_path / "full")
    sizes = [sum(value.nbytes for value in each.tensors("optimiser").values()) for each in (small, full)]
    assert sizes[0] < sizes[1]
    assert len(list(small.path.glob("model*"))) > len(list(full.path.glob("model*"))) == 1
    again = settings(tmp_path / "small", steps=8, state_small=True, optimiser__name="adamw", resume=True)
    assert train(again, recipe()).tally.step == 8


def test_half_precision_trains_full_precision_weights(tmp_path: Path) -> None:
    train(settings(tmp_path, precision="bf16"), recipe())
    assert {value.dtype for value in last(tmp_path).tensors("model").values()} == {torch.float32}


def test_a_scene_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="number 13 of planes: disk on fire"):
        train(settings(tmp_path, data__scenes__number=0), recipe(open_parts=open_broken))


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(settings(tmp_path, tracker="tensorboard"), recipe())
    (folder,) = {path.parent for path in (tmp_path / "logs").rglob("events.out.tfevents.*")}
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/total", "loss/depth", "learning_rate", "heldout/ratio", "waiting"} <= tags
    assert [event.step for event in events.Scalars("heldout/ratio")] == [6, 12]


def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path: Path) -> None:
    in_processes(2, [{"out": str(tmp_path / "two"), "steps": 6, "optimiser__name": "adamw"}])
    ranks = [load_file(tmp_path / "two" / f"process_{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
    config = settings(tmp_path / "one", steps=6, batch=4, optimiser__name="adamw")
    train(config, recipe(loss_of=loss_without_noise))
    # Sums of floats in another order.
    assert_close(tmp_path / "one", tmp_path / "two", tolerance=1e-4)


@pytest.fixture
def toy_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """``mf-ros train`` of the toy, with its settings in a file."""
    from mf_training.settings import dump_train_config

    monkeypatch.setattr("mf_training.run.default_recipe", recipe)
    (tmp_path / "toy.yaml").write_text(dump_train_config(settings(tmp_path / "out")))
    return ["train", str(tmp_path / "toy.yaml")]


def test_the_command_trains_and_says_what_came_of_it(toy_command: List[str], run: Any) -> None:
    outcome = run(*toy_command, "steps=6")
    assert outcome.code == 0
    assert "6 steps, 12 samples" in outcome.out and "held-out error relative to the prior: best" in outcome.out
    assert "step 6/6" in outcome.err


def test_an_interrupted_command_says_how_to_go_on(
    toy_command: List[str], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mf_training.cli.train._line", lambda status: os.kill(os.getpid(), signal.SIGINT) or "line")
    outcome = run(*toy_command)
    assert outcome.code == 130
    (said,) = [line for line in outcome.err.splitlines() if line.startswith("mf-ros:")]
    assert said.startswith("mf-ros: interrupted and saved at step 4; to go on: mf-ros train")
    monkeypatch.undo()


def test_the_command_refuses_in_one_sentence(toy_command: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["optimiser.lrate=1"], "did you mean optimiser.lr?"),
        (["resume=true"], "holds no complete checkpoint"),
        (["init=nowhere"], "nowhere: there is no such file"),
    ):
        assert main([*toy_command, *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_the_network_trains_on_procedural_scenes_and_real_frames(tmp_path: Path) -> None:
    from test_training_data import write_frame

    rng = np.random.default_rng(0)
    for number in range(4):
        points = np.concatenate([rng.uniform(-2, 2, (200, 2)), rng.uniform(4, 9, (200, 1)), np.ones((200, 1))], 1)
        write_frame(tmp_path / "frames" / "drive" / f"{number}", points.astype(np.float32))
    config = settings(
        tmp_path / "out",
        model={"width": 16, "layers": 1, "heads": 2, "stem": [8, 8], "blocks": [1, 1], "propagation": [1]},
        data__shapes=[[32, 48]],
        data__scenes={"size": [64, 96], "scans": 1, "heldout": 1, "number": 2, "cache": str(tmp_path / "scenes")},
        data__mix={"scenes": 0.5, "frames": 0.5},
        data__frames={
            "folder": str(tmp_path / "frames"),
            "part": [0, 0.5],
            "heldout_folder": str(tmp_path / "frames"),
            "heldout_part": [0.5, 1],
        },
        steps=4,
        eval_every=4,
    )
    summary = train(config)
    (best,) = (tmp_path / "out").glob("best_*")
    scores = json.loads((best / "state.json").read_text())["scores"]
    assert {"scenes/error", "scenes/prior_error", "frames/ratio"} <= scores.keys() | {"scenes/free_error"}
    assert scores["frames/prior_error"] > 0 and 0.5 < scores["ratio"] < 2
    assert summary.tally.flops > 0
