"""Text and image streams of the FLUX.2 network against those of diffusers, on the same random weights."""

from __future__ import annotations

from typing import Dict

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers", minversion="0.37")

import flux2_toys as toys  # noqa: E402

from mf_ros.model.flux2 import Flux2Network  # noqa: E402

WHOLE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.linear": "proj_out",
}
SINGLE = {
    "linear1.weight": "attn.to_qkv_mlp_proj.weight",
    "linear2.weight": "attn.to_out.weight",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
}
DOUBLE = {
    "img_attn.proj.weight": "attn.to_out.0.weight",
    "txt_attn.proj.weight": "attn.to_add_out.weight",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "img_mlp.0.weight": "ff.linear_in.weight",
    "img_mlp.2.weight": "ff.linear_out.weight",
    "txt_mlp.0.weight": "ff_context.linear_in.weight",
    "txt_mlp.2.weight": "ff_context.linear_out.weight",
}
QKV = {"img_attn": ("to_q", "to_k", "to_v"), "txt_attn": ("add_q_proj", "add_k_proj", "add_v_proj")}


def as_diffusers(net: Flux2Network) -> Dict[str, torch.Tensor]:
    """The weights of text and image under the names of diffusers, which splits qkv and keeps scale before shift."""
    ours = net.state_dict()
    theirs = {f"{theirs}.weight": ours[f"{name}.weight"] for name, theirs in WHOLE.items()}
    shift, scale = ours["final_layer.adaLN_modulation.1.weight"].chunk(2)
    theirs["norm_out.linear.weight"] = torch.cat([scale, shift])
    for block in range(net.config.triple_blocks):
        prefix, other = f"double_blocks.{block}", f"transformer_blocks.{block}"
        theirs |= {f"{other}.{name}": ours[f"{prefix}.{each}"] for each, name in DOUBLE.items()}
        for stream, names in QKV.items():
            parts = ours[f"{prefix}.{stream}.qkv.weight"].chunk(3)
            theirs |= {f"{other}.attn.{name}.weight": part for name, part in zip(names, parts, strict=True)}
    for block in range(net.config.single_blocks):
        prefix, other = f"single_blocks.{block}", f"single_transformer_blocks.{block}"
        theirs |= {f"{other}.{name}": ours[f"{prefix}.{each}"] for each, name in SINGLE.items()}
    return theirs


@pytest.mark.parametrize("blocks", [(1, 0), (0, 1), (2, 3)])
def test_without_depth_the_image_is_that_of_diffusers(blocks: tuple[int, int]) -> None:
    net = toys.random_network("v1", triple_blocks=blocks[0], single_blocks=blocks[1])
    config, given = net.config, toys.inputs(net)
    other = toys.diffusers_network(config)
    other.load_state_dict(as_diffusers(net), strict=True)
    image_places = toys.positions(0, toys.GRID)[: given["image"].shape[1]]
    with torch.inference_mode():
        expected = other(
            hidden_states=given["image"],
            encoder_hidden_states=given["text"],
            timestep=given["image_level"],
            img_ids=torch.tensor(image_places, dtype=torch.float32),
            txt_ids=torch.tensor(toys.positions(given["text"].shape[1], (0, 0)), dtype=torch.float32),
            return_dict=False,
        )[0]
        out = net(**{**given, "depth": torch.zeros(2, 0, config.depth_channels)}).image
    assert 0.5 < expected.abs().mean() < 5
    assert (out - expected).abs().max() < 1e-5
