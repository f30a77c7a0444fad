"""Post-training of FLUX.2 networks with depth, on planes of which every other return is held out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("peft")
pytest.importorskip("diffusers", minversion="0.37")
pytest.importorskip("cv2")

import flux_toys
import numpy as np
import torch
from flux_training_toys import (  # noqa: F401
    LORA,
    MODEL,
    NOISELESS,
    base_of,
    flux_settings,
    short_prompt,
    start,
    trained,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_toys import assert_same, begin_after, fresh_accelerator, last, settings  # noqa: F401

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.errors import ConfigError, ModelError
from mf_ros.model.flux2 import Flux2Config, Flux2Network, load_flux2
from mf_ros.model.flux2.pixels import Flux2Sampler
from mf_ros.model.flux2.text import empty_prompt
from mf_ros.model.flux2.vae import DECODER, ENCODER, load_autoencoder
from mf_ros.model.sampler import Known
from mf_training.checkpoints import CheckpointError, load_into
from mf_training.export import export_run
from mf_training.flux.export import MergedTensors, merged_tensors
from mf_training.flux.pictures import flux_pictures
from mf_training.lora import LoraConfig, adapt, targets_of, trained_tensors
from mf_training.recipe import without_kind
from mf_training.run import train
from mf_training.run_model import model_of_run
from mf_training.settings import load_train_config

SIZES = Flux2Config.from_mapping({**without_kind(MODEL), "depth_channels": 256})
ADAPTERS = LoraConfig(**{**LORA, "targets": tuple(LORA["targets"]), "also_train": tuple(LORA["also_train"])})
DEPTH_ONLY = {**NOISELESS, "complete": 0.5, "image": 0.5}


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """A folder as released, of a tiny network that is licensed as the toys are, Apache-2.0."""
    return start(tmp_path / "base")


def tuned_tensors(run: Path) -> MergedTensors:
    return merged_tensors(last(run), SIZES, ADAPTERS)


def test_post_training_lowers_the_loss_and_the_error_at_held_out_returns(tmp_path: Path) -> None:
    # The toys' planes, shown to a network whose depth is rough.
    init = start(tmp_path / "rough", rough=0.1)
    common = {"losses": DEPTH_ONLY, "lora": {**LORA, "rank": 8}, "batch": 4, "flux": {"one_step": 1.0}}
    untrained = {"name": "adamw", "lr": 1e-9}
    before = trained(tmp_path / "before", init, **common, steps=1, eval_every=1, optimiser=untrained)
    losses: List[float] = []
    plan = {"steps": 60, "eval_every": 30, "save_every": 60, "log_every": 10, "schedule": {"warmup": 10}}
    after = trained(tmp_path / "after", init, losses, **common, **plan)
    assert losses[-1] < 0.6 * losses[0]
    assert before.tally.ratio is not None and after.tally.ratio is not None
    assert after.tally.ratio < 0.5 * before.tally.ratio


def test_what_is_not_named_stays_as_it_was(tmp_path: Path, init: Path) -> None:
    summary = trained(tmp_path / "run", init, lora=LORA)
    assert 0 < summary.trained < summary.weights
    before, after = base_of(init), tuned_tensors(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == (
        {f"single_blocks.{block}.linear{layer}.weight" for block in (0, 1) for layer in (1, 2)}
        | {f"double_blocks.{block}.depth_attn.{layer}.weight" for block in (0, 1) for layer in ("qkv", "proj")}
        | {f"double_blocks.{block}.depth_mlp.{layer}.weight" for block in (0, 1) for layer in (0, 2)}
        | {"depth_in.weight", "depth_final_layer.linear.weight", "depth_final_layer.adaLN_modulation.1.weight"}
    )


def test_all_weights_can_be_trained(tmp_path: Path, init: Path) -> None:
    summary = trained(tmp_path / "run", init, steps=2, eval_every=2, losses={**NOISELESS, "complete": 0, "joint": 1})
    assert summary.trained == summary.weights
    before, after = base_of(init), last(tmp_path / "run").tensors("model")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(moved) > 0.9 * len(before) and "img_in.weight" in moved


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": LORA},
        {"lora": {**LORA, "half": True}, "precision": "bf16", "recompute": True, "accumulate": 2},
    ],
    ids=["adapters", "half"],
)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, init: Path, changes: Dict[str, Any]) -> None:
    trained(tmp_path / "whole", init, **changes)
    begin_after(tmp_path / "whole" / "step_00000002", tmp_path / "parts")
    trained(tmp_path / "parts", init, **changes)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_recomputing_blocks_changes_no_weight(tmp_path: Path, init: Path) -> None:
    for name, recompute in (("kept", False), ("recomputed", True)):
        trained(tmp_path / name, init, lora=LORA, recompute=recompute, steps=3)
    one, other = (last(tmp_path / name).tensors("model") for name in ("kept", "recomputed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def sampled(net: Flux2Network, folder: Path) -> Tensor:
    """Depth with returns, in two steps, as the engine asks for it."""
    sampler = Flux2Sampler(net, load_autoencoder(folder), empty_prompt(folder, 20))
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(1, 3, 32, 48, generator=generator) * 2 - 1
    depth = torch.zeros(1, 1, 32, 48)
    level = (torch.rand(1, 1, 32, 48, generator=generator) > 0.05).float()
    return sampler(Known(image, depth, level, depth), 2, torch.Generator().manual_seed(0)).depth


def merged_by_peft(run: Path, init: Path) -> Flux2Network:
    """The trained network, its adapters merged by their own library, in the precision of exported weights."""
    net = Flux2Network(SIZES)
    net.load_state_dict(base_of(init))
    tuner = adapt(net, ADAPTERS, targets_of(net, ADAPTERS))
    load_into(trained_tensors(net), last(run).tensors("ema"), "")
    tuner.merge_and_unload()
    for name, weight in net.named_parameters():
        if not name.startswith("depth_final_layer"):
            weight.data = weight.data.bfloat16().float()
    return net.eval()


def test_an_exported_run_computes_what_the_merged_network_does(tmp_path: Path, init: Path) -> None:
    trained(tmp_path / "run", init, lora=LORA, eval_every=6)
    done = export_run(tmp_path / "run", tmp_path / "tuned")
    assert done.difference is None and done.parameters == sum(each.numel() for each in base_of(init).values())
    made = [sampled(load_flux2(folder, torch.float32, config=SIZES), folder) for folder in (tmp_path / "tuned", init)]
    assert torch.allclose(made[0], sampled(merged_by_peft(tmp_path / "run", init), init), atol=1e-5)
    assert not torch.allclose(made[0], made[1], atol=1e-3), "the training did something"


def test_the_engine_runs_what_was_trained_on_scenes(tmp_path: Path, init: Path) -> None:
    data = {"shapes": [[64, 64]], "workers": 0, "scenes": {"heldout": 1, "number": 2, "size": [64, 96], "scans": 1}}
    config = flux_settings(tmp_path / "run", init, lora=LORA, steps=2, eval_every=2, data=data)
    assert train(config).tally.ratio is not None
    export_run(tmp_path / "run", tmp_path / "tuned")
    truth = flux_toys.slope(48, 96)
    engine = make_engine(EngineConfig(name="flux", model=str(tmp_path / "tuned"), device="cpu", steps=2))
    assert engine.describe()["licence"] == "apache-2.0" and "64 x 64" in engine.describe()["canvas"]
    made = engine.estimate(flux_toys.picture(48, 96), flux_toys.lines_of(truth), flux_toys.camera_of(truth.shape))
    assert made.metric and abs(float(np.median(made.depth / truth)) - 1) < 0.1


def test_an_export_says_where_the_network_comes_from(tmp_path: Path, init: Path) -> None:
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    export_run(tmp_path / "run", tmp_path / "tuned")
    document = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert document["license"] == "apache-2.0" and document["flux2"]["hidden"] == 64 and document["resolution"] == 32
    assert document["base"]["name"] == "base" and len(document["base"]["sha256"]) == 64
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert card.startswith('---\nlicense: "apache-2.0"\n---') and "trained for 2 steps" in card
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == {
        "README.md",
        "ae_decoder.safetensors",
        "ae_encoder.safetensors",
        "config.json",
        "empty_prompt.safetensors",
        "model.safetensors",
    }
    export_run(tmp_path / "run", tmp_path / "tuned")
    (tmp_path / "tuned" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="holds something else than a network of this kind"):
        export_run(tmp_path / "run", tmp_path / "tuned")


def test_results_go_into_the_card_of_an_exported_network(tmp_path: Path, init: Path, run: Any) -> None:
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    (tmp_path / "scores.json").write_text(
        json.dumps({"Scores": [{"input": "8 lines", "mae": 0.123456}], "Rows": ["8"]})
    )
    outcome = run("export", tmp_path / "run", "--out", tmp_path / "tuned", "--metrics", tmp_path / "scores.json")
    assert outcome.code == 0, outcome.error
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "## Scores\n\n| input | mae |\n| --- | --- |\n| 8 lines | 0.1235 |\n\n## Rows\n\n['8']\n" in card


def test_options_of_graphs_are_refused_before_anything_is_written(tmp_path: Path, init: Path, run: Any) -> None:
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    for options in (["--opset 20"], ["--calibrate"], ["--opset 23", "--float16", "--int8", "--plain"]):
        outcome = run("export", tmp_path / "run", "--out", tmp_path / "tuned", *" ".join(options).split())
        named = " and ".join(each.split()[0] for each in options)
        assert outcome.code == 2 and "FLUX.2 network" in outcome.error
        assert outcome.error.endswith(f": leave {named} out.")
    assert not (tmp_path / "tuned").exists()


def test_large_weights_are_written_in_several_files(
    tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    export_run(tmp_path / "run", tmp_path / "one")
    monkeypatch.setattr("mf_training.flux.export.SHARD_BYTES", 300_000)
    export_run(tmp_path / "run", tmp_path / "several")
    assert len(list((tmp_path / "several").glob("model-*.safetensors"))) > 2
    one, several = (load_flux2(tmp_path / name, torch.float32, config=SIZES) for name in ("one", "several"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), several.parameters(), strict=True))


def test_a_licence_that_forbids_commercial_use_must_be_accepted_and_stays(tmp_path: Path) -> None:
    init = start(tmp_path / "base", license="cc-by-nc-4.0")
    with pytest.raises(ConfigError, match=r"cc-by-nc-4\.0: non-commercial use only, .* flux.accept_noncommercial=true"):
        trained(tmp_path / "run", init, lora=LORA)
    accepted = {"lora": LORA, "steps": 2, "flux": {"accept_noncommercial": True}}
    trained(tmp_path / "run", init, **accepted)
    assert last(tmp_path / "run").state["sources"]["parent"]["licence"] == "cc-by-nc-4.0"
    with pytest.raises(ModelError, match=r"under the licence cc-by-nc-4\.0, .* leave --licence MIT out"):
        export_run(tmp_path / "run", tmp_path / "tuned", licence="MIT")
    export_run(tmp_path / "run", tmp_path / "tuned")
    with pytest.raises(ModelError, match="non-commercial use only"):
        make_engine(EngineConfig(name="flux", model=str(tmp_path / "tuned"), device="cpu"))
    with pytest.raises(ConfigError, match="non-commercial use only"):
        trained(tmp_path / "again", tmp_path / "tuned", lora=LORA)


def klein_folder(folder: Path, init: Path) -> Path:
    """A text-to-image network as it is downloaded: the toys' without depth, autoencoder in one file, model card."""
    skipped = ("depth", "cross_alpha", "time_in_rgb")
    kept = {name: value for name, value in base_of(init).items() if not any(each in name for each in skipped)}
    for part in ("transformer", "vae"):
        (folder / part).mkdir(parents=True)
    save_file(kept, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    codec = load_autoencoder(init, parts=(ENCODER, DECODER))
    weights = {name: value.contiguous() for name, value in codec._vae.state_dict().items()}
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.safetensors")
    shutil.copy(init / "empty_prompt.safetensors", folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def test_a_text_to_image_network_learns_depth(tmp_path: Path, init: Path) -> None:
    klein = klein_folder(tmp_path / "klein", init)
    whole = ["depth_in", "depth_final_layer", "depth_decoder_blocks", r"double_blocks\.\d+\.depth_(attn|mlp)"]
    lora = {"rank": 2, "targets": [r"single_blocks\.\d+\.linear[12]"], "also_train": whole}
    common = {"lora": lora, "losses": DEPTH_ONLY, "batch": 4, "ema": 0.5}
    first = trained(tmp_path / "first", klein, **common, steps=1, eval_every=1)
    later = trained(tmp_path / "run", klein, **common, steps=40, eval_every=20, save_every=40)
    assert first.tally.ratio is not None and later.tally.best_ratio is not None
    assert later.tally.best_ratio < 0.5 * first.tally.ratio
    assert last(tmp_path / "run").state["sources"]["parent"]["licence"] == "apache-2.0"
    export_run(tmp_path / "run", tmp_path / "tuned")
    tuned = base_of(tmp_path / "tuned")
    assert torch.equal(tuned["img_in.weight"], base_of(init)["img_in.weight"].bfloat16()), "the base's own"
    assert tuned["depth_final_layer.linear.weight"].any()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    codecs = [load_autoencoder(folder, parts=(ENCODER, DECODER)) for folder in (init, klein, tmp_path / "tuned")]
    tokens = [codec.encode(image) for codec in codecs]
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2])
    pictures = [codec.decode(tokens[0], (2, 2)) for codec in codecs]
    assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])


def test_a_base_that_changed_is_refused(tmp_path: Path, init: Path) -> None:
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    weights = load_file(init / "model.safetensors")
    weights["dit.img_in.weight"] += 1e-3
    save_file(weights, init / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the weights that the adapters"):
        export_run(tmp_path / "run", tmp_path / "tuned")


def test_weights_of_another_network_are_refused(tmp_path: Path, init: Path) -> None:
    with pytest.raises(CheckpointError, match="holds the weights of another model"):
        trained(tmp_path / "run", init, lora=LORA, model={**MODEL, "text_channels": 20, "single_blocks": 3})


def test_room_is_looked_for_before_anything_is_read(
    tmp_path: Path, init: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mf_training.networks.free_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"This training holds 0\.0 GB on cpu, where 0\.0 GB are free: .*--plan"):
        trained(tmp_path / "run", init, lora=LORA)


def test_a_network_of_no_family_is_refused(tmp_path: Path, init: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.kind is 'flux3': allowed is modality_forcing or flux2"):
        train(flux_settings(tmp_path / "run", init, model={"kind": "flux3"}))
    with pytest.raises(ConfigError, match=r"name their folder with flux\.parts=FOLDER"):
        train(settings(tmp_path / "run", model=MODEL))


def test_a_contact_sheet_shows_what_a_trained_network_makes(tmp_path: Path, init: Path, capsys: Any) -> None:
    from mf_ros.cli.main import main

    named = ["sample", str(init), "--out", str(tmp_path / "sheet.png"), "--count", "1", "--steps", "1", "--json"]
    assert main([*named, "--height", "64", "--width", "64"]) == 0
    errors = json.loads(capsys.readouterr().out)["relative_errors"]
    assert set(errors) == {"image + LiDAR to depth", "LiDAR to depth", "image to depth"}
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_known_depth_of_any_scale_is_sampled_in_the_network_s_unit(init: Path) -> None:
    sampler = flux_pictures(init)
    image, generator = torch.rand(1, 3, 32, 48) * 2 - 1, torch.Generator().manual_seed(0)
    depth = torch.linspace(0, 1, 48).expand(1, 1, 32, 48)
    level = (torch.rand(1, 1, 32, 48) > 0.1).float()
    known = Known(image, depth, level, torch.zeros_like(depth))
    farther = dataclasses.replace(known, depth=depth + 3)
    one, other = (sampler(each, 2, generator.manual_seed(0)).depth for each in (known, farther))
    assert torch.allclose(other - 3, one, atol=1e-3)


def test_the_preset_trains_on_a_data_set_of_bags(tmp_path: Path, init: Path) -> None:
    pytest.importorskip("lance")
    pytest.importorskip("imagehash")
    from dataset_rows import wall_rows, write_dataset

    rows = [*wall_rows("one", (5.0, 8.0), split="train"), *wall_rows("two", (6.0,), split="val")]
    tiny = [
        f"model={json.dumps(MODEL)}",
        f"data={write_dataset(tmp_path / 'dataset', rows)}",
        f"init={init}",
        "data.mix.scenes=0",
        "data.workers=0",
        "data.shapes=[[64,64]]",
        "steps=2",
        "accumulate=1",
        "eval_every=2",
        "device=cpu",
        "tracker=none",
        f"out={tmp_path / 'run'}",
    ]
    summary = train(load_train_config("posttrain_flux", tiny))
    assert summary.tally.samples == 2 and summary.tally.ratio is not None
    state = last(tmp_path / "run").state
    assert state["sources"]["dataset"]["rows"] == 3 and state["config"]["lora"]["half"] is True
    export_run(tmp_path / "run", tmp_path / "tuned")
    assert "data set dataset (3 rows, 2 recordings)" in (tmp_path / "tuned" / "README.md").read_text()


def test_what_is_missing_is_named(tmp_path: Path, init: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no .*nowhere: name the weights to start from"):
        trained(tmp_path / "run", tmp_path / "nowhere", lora=LORA)
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    with pytest.raises(ConfigError, match=r"holds no autoencoder .*flux\.parts=FOLDER"):
        trained(tmp_path / "again", tmp_path / "run", lora=LORA)
    with pytest.raises(ModelError, match=r"of the kind flux2, .* evaluate BAG --engine flux --model MODEL"):
        model_of_run(tmp_path / "run")


def test_an_exported_network_is_trained_on(tmp_path: Path, init: Path) -> None:
    trained(tmp_path / "run", init, lora=LORA, steps=2)
    export_run(tmp_path / "run", tmp_path / "tuned")
    trained(tmp_path / "again", tmp_path / "tuned", lora=LORA, steps=2)
    assert last(tmp_path / "again").state["sources"]["parent"]["name"] == "tuned"
