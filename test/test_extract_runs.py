"""Extraction of many bags: adding, killing and going on, many processes, and faults that stop nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")
pytest.importorskip("imagehash")

from broken_bags import Run, command_line
from fleet_bags import drive, extracted
from test_dataset import assert_same

from mf_ros.core.config import Config, EngineConfig, LidarConfig
from mf_ros.dataset import recording_rows
from mf_ros.dataset.bag_job import Outcome
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.jobs import run_jobs
from mf_ros.dataset.manifest import BagRecord, Manifest
from mf_ros.dataset.row import DatasetError

OUTS = ("set", "set.parquet")


def manifest_of(path: Path) -> list[dict[str, object]]:
    file = path.with_name(f"{path.name}.manifest.jsonl") if path.suffix else path / "manifest.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_same_rows(one: Path, other: Path) -> None:
    """The same rows in any order."""
    first, second = Dataset(one), Dataset(other)
    assert first.fingerprint == second.fingerprint
    places = [
        {row["sample_id"]: i for i, row in enumerate(each.columns(["sample_id"]).to_pylist())}
        for each in (first, second)
    ]
    assert len(places[0]) == len(first) == len(second), "no row is there twice"
    for sample, place in places[0].items():
        assert_same(first.row(place), second.row(places[1][sample]))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Bags of two robots."""
    folder = tmp_path_factory.mktemp("fleet")
    return [drive(folder / f"rover-{n % 2}" / f"drive_{n}.mcap", seed=n, frames=12, start_s=60.0 * n) for n in range(5)]


@pytest.fixture(scope="module")
def undisturbed(fleet: list[Path]) -> Path:
    """The data set of all bags, made in one go."""
    out = fleet[0].parents[1] / "undisturbed"
    report = extracted(fleet, out)
    assert [record.status for record in report.records] == ["done"] * 5
    return out


@pytest.mark.parametrize("name", OUTS)
def test_running_again_adds_only_what_is_new(name: str, fleet: list[Path], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    extracted(fleet[:3], out)
    before = Dataset(out).fingerprint
    assert {record.status for record in extracted(fleet[:3], out).records} == {"skipped"}
    assert Dataset(out).fingerprint == before and len(manifest_of(out)) == 3
    report = extracted(fleet, out)
    assert [record.status for record in report.records] == ["skipped"] * 3 + ["done"] * 2
    assert_same_rows(out, undisturbed)


def test_a_moved_bag_is_known_and_a_changed_one_is_not_taken_twice(fleet: list[Path], tmp_path: Path) -> None:
    out, bag = tmp_path / "set", tmp_path / "bag.mcap"
    bag.write_bytes(fleet[0].read_bytes()[:-2000])
    assert extracted([bag], out).records[0].status == "done"
    moved = bag.rename(tmp_path / "moved.mcap")
    assert extracted([moved], out).records[0].status == "skipped"
    moved.rename(bag).write_bytes(fleet[0].read_bytes())
    record = extracted([bag], out).records[0]
    assert record.status == "rejected" and "another version of this file" in record.reason


KILLER = """
import os, signal, sys
from mf_ros.dataset import stores
kind = getattr(stores, sys.argv[1])
moment, number, commit, count = sys.argv[2], int(sys.argv[3]), kind.commit, 0

def killing(self, pieces):
    global count
    count += 1
    if moment == "after" or count < number:
        commit(self, pieces)
    if count == number:
        os.killpg(0, signal.SIGKILL)

if __name__ == "__main__":
    kind.commit = killing
    from mf_ros.cli.main import main
    main(sys.argv[4:])
"""


@pytest.mark.parametrize(
    ("kind", "moment", "number", "workers"),
    [
        ("LanceStore", "after", 2, "2"),
        ("LanceStore", "before", 4, "0"),
        ("ParquetStore", "after", 3, "0"),
    ],
)
def test_a_killed_run_loses_no_committed_bag_and_doubles_none(
    kind: str, moment: str, number: int, workers: str, fleet: list[Path], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("set" if kind == "LanceStore" else "set.parquet")
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    command = [sys.executable, script, kind, moment, str(number), "extract", *fleet, "--out", out, "--workers", workers]
    done = subprocess.run(
        list(map(str, command)), start_new_session=True, timeout=100, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    committed = number if moment == "after" else number - 1
    assert len(manifest_of(out)) == number - 1, "the line comes after the commit"
    report = extracted(fleet, out)
    assert [len(report.of(status)) for status in ("skipped", "done")] == [committed, 5 - committed]
    assert_same_rows(out, undisturbed)
    assert {str(entry["bag_id"]) for entry in manifest_of(out)} == {record.bag_id for record in report.records}
    assert len(manifest_of(out)) == 5
    if kind == "LanceStore":
        assert len(list((out / "samples.lance" / "data").iterdir())) == 5, "nothing is left of the killed run"
    assert sorted(path.name for path in out.parent.iterdir() if path.name.startswith(".")) == []


def test_two_processes_make_the_rows_of_one(fleet: list[Path], undisturbed: Path, tmp_path: Path) -> None:
    report = extracted(fleet, tmp_path / "set", workers=2)
    assert {record.status for record in report.records} == {"done"}
    assert_same_rows(tmp_path / "set", undisturbed)


def test_lance_and_parquet_hold_the_same_rows(fleet: list[Path], undisturbed: Path, tmp_path: Path) -> None:
    extracted(fleet, tmp_path / "set.parquet")
    assert_same_rows(tmp_path / "set.parquet", undisturbed)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["set.parquet", "set.parquet.manifest.jsonl"]


def test_a_ray_cluster_makes_the_same_rows(fleet: list[Path], undisturbed: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    try:
        report = extracted(fleet, tmp_path / "set", ray="local")
    finally:
        ray.shutdown()
    assert {record.status for record in report.records} == {"done"}
    assert_same_rows(tmp_path / "set", undisturbed)


@pytest.mark.parametrize("name", OUTS)
def test_a_corrupt_bag_in_the_middle_costs_only_itself(name: str, fleet: list[Path], tmp_path: Path, run: Run) -> None:
    noise = tmp_path / "noise.mcap"
    noise.write_bytes(b"\x89MCAP0\r\n" + os.urandom(5000))
    out = tmp_path / name
    bags = [fleet[0], noise, tmp_path / "missing.mcap", fleet[1]]
    done = run("extract", *bags, "--out", out, "--workers", "0")
    assert done.code == 1 and done.err == ""
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["done", "failed", "failed", "done"]
    assert "missing.mcap does not exist" in lines[2] and "4 bags: 2 done, 2 failed" in lines
    statuses = {Path(str(entry["bag"])).name: entry["status"] for entry in manifest_of(out)}
    assert statuses["noise.mcap"] == statuses["missing.mcap"] == "failed"
    assert len(Dataset(out)) == 12


def test_a_fault_in_the_program_is_told_and_costs_one_bag(
    fleet: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(image: object) -> str:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(recording_rows, "perceptual_hash", broken)
    record = extracted(fleet[:1], tmp_path / "set").records[0]
    assert record.status == "failed"
    assert record.reason == "An unexpected ZeroDivisionError stopped it: nobody thought of this"


def test_a_data_set_has_one_set_of_settings(fleet: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "set"
    extracted(fleet[:1], out)
    with pytest.raises(DatasetError, match=r"lidar.min_range_m is 1.0, there 0.3"):
        extracted(fleet[1:2], out, config=Config(lidar=LidarConfig(min_range_m=1.0)))
    with pytest.raises(DatasetError, match=r"every_m is 2.0, there 0.5"):
        extracted(fleet[1:2], out, every_m=2.0)
    with pytest.raises(DatasetError, match="split by time, and --split group is asked for"):
        extracted(fleet[1:2], out, split="group")
    other_engine = Config(engine=EngineConfig(name="classical"))
    assert extracted(fleet[1:2], out, config=other_engine).records[0].status == "done"


def test_another_version_of_the_extraction_does_not_add(
    fleet: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    extracted(fleet[:1], out)
    monkeypatch.setattr("mf_ros.dataset.extract.EXTRACTOR_VERSION", "999")
    with pytest.raises(DatasetError, match="made by version 1 of the extraction, and this is 999"):
        extracted(fleet[1:2], out)


def test_only_one_extraction_at_a_time_adds_to_a_data_set(fleet: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "set"
    extracted(fleet[:1], out)
    with Manifest(out / "manifest.jsonl"), pytest.raises(DatasetError, match="Another extraction adds to"):
        extracted(fleet[1:2], out)


def test_a_torn_line_of_the_manifest_does_no_harm(fleet: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "set"
    extracted(fleet[:2], out)
    text = (out / "manifest.jsonl").read_text()
    (out / "manifest.jsonl").write_text(text[:-40])
    assert {record.status for record in extracted(fleet[:3], out).records} == {"skipped", "done"}
    with Manifest(out / "manifest.jsonl") as manifest:
        held = set(Dataset(out).columns(["bag_id"]).column(0).to_pylist())
        assert len(held) == 3 and all(manifest.last(bag_id) is not None for bag_id in held)


def test_an_interrupted_run_keeps_what_is_committed_and_goes_on(
    fleet: list[Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mf_ros.dataset.stores import LanceStore

    commit, out = LanceStore.commit, tmp_path / "set"

    def interrupted(self: LanceStore, pieces: tuple[str, ...]) -> None:
        commit(self, pieces)
        monkeypatch.undo()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LanceStore, "commit", interrupted)
    report = extracted(fleet, out)
    assert report.interrupted and len(report.of("done")) == 1 and len(report.of("interrupted")) == 4
    assert not extracted(fleet, out).interrupted
    assert_same_rows(out, undisturbed)


def test_ctrl_c_ends_the_command_with_130(fleet: list[Path], tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line("extract", *fleet, "--out", tmp_path / "set", "--workers", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    manifest = tmp_path / "set" / "manifest.jsonl"
    while process.poll() is None and not (manifest.exists() and manifest.stat().st_size):
        pass
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "interrupted" in out
    assert len(Dataset(tmp_path / "set")) >= 6


class FragileBackend:
    """Two workers that both die whenever one of them is given the deadly job."""

    slots = 2

    def __init__(self) -> None:
        self.together: list[str] = []
        self.restarts = 0

    def submit(self, job: str) -> str:
        return job

    def finished(self, handles: list[str]) -> list[str]:
        self.together = handles
        return handles

    def result(self, handle: str) -> Outcome | Exception:
        return BrokenProcessPool() if "deadly" in self.together else Outcome(BagRecord(handle, status="done"))

    def restart(self) -> None:
        self.restarts += 1


def test_a_bag_that_kills_its_worker_fails_alone() -> None:
    backend = FragileBackend()
    results = dict(run_jobs(["a", "deadly", "b", "c"], backend, lambda running: False))  # type: ignore
    assert list(results) == ["a", "deadly", "b", "c"] and backend.restarts == 2
    assert [isinstance(result, Outcome) for result in results.values()] == [True, False, True, True]
    assert "Its worker process died" in str(results["deadly"])  # type: ignore[index]
