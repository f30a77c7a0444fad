"""Published depth models as very small networks of random weights: the real classes, saved as theirs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# Importing this skips the tests of a module where a package is missing.
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
pytest.importorskip("PIL")

PATCH = 14


def dinov2(**changes: Any) -> Any:
    return transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=PATCH,
        out_indices=[1, 2],
        reshape_hidden_states=False,
        apply_layernorm=True,
        **changes,
    )


def save(folder: Path, network: Any, processor: Any, licence: str | None = "apache-2.0") -> Path:
    """A model's folder; its weights are made larger, so that what it puts out hangs on the image."""
    torch.manual_seed(0)
    networks = [network] if processor is not None else [network.unet]
    with torch.no_grad():
        for parameter in (each for one in networks for each in one.parameters()):
            parameter += 0.2 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A tiny model\n")
    return folder


def processor(**changes: Any) -> Any:
    settings = {"size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": PATCH}
    return transformers.DPTImageProcessorPil(**{**settings, **changes})


def depth_anything(folder: Path, kind: str = "relative", licence: str | None = "apache-2.0") -> Path:
    """Depth Anything V2: a DPT head on DINOv2."""
    config = transformers.DepthAnythingConfig(
        backbone_config=dinov2(),
        patch_size=PATCH,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_in_index=-1,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    return save(folder, transformers.DepthAnythingForDepthEstimation(config), processor(), licence)


def dpt(folder: Path, padded: bool = False) -> Path:
    """MiDaS's DPT; ``padded`` as DINOv2's depth heads are published: without resizing, padded to whole patches."""
    torch.manual_seed(0)
    changes: dict[str, Any] = {"keep_aspect_ratio": False}
    if padded:
        changes = {"do_resize": False, "do_pad": True, "size_divisor": PATCH}
    config = transformers.DPTConfig(
        backbone_config=dinov2() if padded else None,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=56,
        patch_size=PATCH,
        backbone_out_indices=[0, 1, 2, 3],
        reassemble_factors=[1, 1] if padded else [4, 2, 1, 0.5],
        neck_hidden_sizes=[8, 8] if padded else [8, 8, 8, 8],
        fusion_hidden_size=8,
        use_auxiliary_head=False,
        is_hybrid=False,
        add_projection=False,
    )
    return save(folder, transformers.DPTForDepthEstimation(config), processor(**changes))


def glpn(folder: Path) -> Path:
    config = transformers.GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[1, 1, 1, 1],
        decoder_hidden_size=8,
    )
    return save(folder, transformers.GLPNForDepthEstimation(config), transformers.GLPNImageProcessorPil())


def zoedepth(folder: Path) -> Path:
    """Needs torchvision to run."""
    beit = transformers.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=16,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=beit,
        backbone_hidden_size=16,
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=8,
        bin_configurations=[{"n_bins": 4, "min_depth": 1e-3, "max_depth": 80.0, "name": "kitti"}],
        num_patch_transformer_layers=1,
        patch_transformer_hidden_size=8,
        patch_transformer_intermediate_size=8,
        patch_transformer_num_attention_heads=1,
    )
    images = transformers.ZoeDepthImageProcessorPil(size={"height": 64, "width": 64}, ensure_multiple_of=32)
    return save(folder, transformers.ZoeDepthForDepthEstimation(config), images)


def depth_pro(folder: Path, fov: bool = True) -> Path:
    """Needs torchvision to be made and to run."""

    def vit() -> Any:
        return transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=16, patch_size=4
        )

    config = transformers.DepthProConfig(
        fusion_hidden_size=16,
        patch_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.25, 0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25],
        scaled_images_feature_dims=[8, 8, 8],
        use_fov_model=fov,
        num_fov_head_layers=1,
        image_model_config=vit(),
        patch_model_config=vit(),
        fov_model_config=vit(),
    )
    images = transformers.DepthProImageProcessor(size={"height": 64, "width": 64})
    return save(folder, transformers.DepthProForDepthEstimation(config), images)


def marigold(folder: Path, licence: str | None = "apache-2.0", **changes: Any) -> Path:
    """Marigold's pipeline: Stable Diffusion's parts, a UNet that sees the latents of image and depth."""
    diffusers = pytest.importorskip("diffusers", minversion="0.36")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    text = transformers.CLIPTextConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        vocab_size=4,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    settings = {
        "prediction_type": "depth",
        "default_denoising_steps": 2,
        "default_processing_resolution": 32,
        **changes,
    }
    pipeline = diffusers.MarigoldDepthPipeline(
        unet=unet,
        vae=vae,
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=8),
        **{**settings, **changes},
    )
    return save(folder, pipeline, None, licence)


def edit(path: Path, **changes: Any) -> None:
    """Replace values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
