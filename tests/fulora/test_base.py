"""The base is found, checked before any work, loaded frozen, and refused with a remedy where it is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fulora.device import resolve_device, resolve_precision
from fulora.diffusion import random_base
from fulora.diffusion.base import Base, load_base, pipeline
from fulora.diffusion.base_files import PARTS, check_base, fingerprint, hash_files
from fulora.diffusion.caching import cache_latents, encode_prompts
from fulora.errors import InputError

from .original_layout import to_original_layout


def test_a_local_folder_loads_frozen_with_a_hash_in_its_name(small_base: Path) -> None:
    base = load_base(str(small_base))
    assert base.name.startswith(str(small_base)) and base.sha256[:8] in base.name
    assert base.pixels_per_latent == 4
    for part in (base.unet, base.vae, base.text_encoder):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_the_hash_is_of_the_weights_and_not_of_the_place(small_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_base, copy)
    assert load_base(str(copy)).sha256 == load_base(str(small_base)).sha256
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    assert load_base(str(copy)).sha256 != load_base(str(small_base)).sha256


@pytest.mark.parametrize("make", ["empty", "other_class", "no_unet", "missing_file", "other_weights", "no_such_path"])
def test_what_is_no_diffusion_model_is_refused_with_a_remedy(make: str, small_base: Path, tmp_path: Path) -> None:
    spec = tmp_path / "given"
    if make == "empty":
        spec.mkdir()
    elif make == "other_class":
        spec.mkdir()
        (spec / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    elif make == "no_unet":
        shutil.copytree(small_base, spec)
        shutil.rmtree(spec / "unet")
    elif make == "missing_file":
        spec = tmp_path / "missing.safetensors"
    elif make == "other_weights":
        spec = tmp_path / "resnet.safetensors"
        from safetensors.torch import save_file

        save_file({"fc.weight": torch.zeros(2, 2)}, spec)
    with pytest.raises(InputError, match="--base"):
        check_base(str(spec))
    with pytest.raises(InputError, match="--base"):
        load_base(str(spec))


def test_a_file_that_has_to_be_unpickled_is_read_only_where_that_is_allowed(tmp_path: Path) -> None:
    spec = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, spec)
    for look in (check_base, load_base):
        with pytest.raises(InputError, match=r"a pickle, which can run code[\s\S]*--allow-pickle"):
            look(str(spec))
    check_base(str(spec), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be loaded as a single file"):
        load_base(str(spec), allow_pickle=True)


def test_a_hub_id_passes_the_check_and_an_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    spec = "fulora-no-such-owner/no-such-model"
    check_base(spec)
    with pytest.raises(InputError, match=r"Hugging Face hub[\s\S]*--base[\s\S]*local directory"):
        load_base(spec)


def test_a_base_that_predicts_velocity_is_refused(small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "velocity"
    shutil.copytree(small_base, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(InputError, match="v_prediction; only epsilon"):
        load_base(str(folder))


def test_damaged_weights_are_an_input_error(small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(small_base, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_base(str(folder))


def test_embeddings_are_those_of_diffusers_and_clip_skip_counts_as_it_does(small_base: Path) -> None:
    base = load_base(str(small_base))
    prompts = ["a photo of fetal brain", "a photo of fetal femur", "a photo of fetal brain"]
    ours = encode_prompts(base, prompts)
    theirs = pipeline(base).encode_prompt(prompts, "cpu", 1, False)[0]
    assert ours.shape == (3, 77, 32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert torch.equal(ours[0], ours[2]) and not torch.equal(ours[0], ours[1])
    # No layer left out, given as 0, is the last hidden state with the final norm: the same as None.
    torch.testing.assert_close(encode_prompts(base, prompts, 0), ours, rtol=0, atol=1e-6)
    skipped = encode_prompts(base, prompts, 1)
    model = getattr(base.text_encoder, "text_model", base.text_encoder)
    last_layer = model.encoder.layers[-1]
    tokens = base.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
    caught: list[torch.Tensor] = []
    hook = last_layer.register_forward_pre_hook(
        lambda _, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        base.text_encoder(tokens.input_ids)
        torch.testing.assert_close(skipped, model.final_layer_norm(caught[0]), rtol=0, atol=1e-6)
    hook.remove()
    with pytest.raises(InputError, match="clip_skip"):
        encode_prompts(base, prompts, 2)


def test_cached_latents_are_the_posterior_the_autoencoder_gives(small_base: Path) -> None:
    import numpy as np

    base = load_base(str(small_base))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    mean, deviation = cache_latents(base, pixels, batch=2)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    with torch.no_grad():
        posterior = base.vae.encode(images).latent_dist
    factor = base.vae.config.scaling_factor
    torch.testing.assert_close(mean, posterior.mean * factor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deviation, posterior.std * factor, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="multiple of 8"):
        cache_latents(base, pixels[:, :30, :30])


def test_device_and_precision_follow_what_is_there() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_precision("auto", "cpu") == torch.float32
    assert resolve_precision("fp16", "cuda") == torch.float16
    for precision in ("fp8", "fp16"):
        with pytest.raises(InputError, match="precision"):
            resolve_precision(precision, "cpu")


@pytest.fixture
def write_single_file(small_base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the small base in the original layout, its configurations alone beside it."""
    shutil.copytree(small_base, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))

    def write(change: Callable[[dict[str, torch.Tensor]], object] = dict, name: str = "model.safetensors") -> Path:
        from safetensors.torch import save_file

        weights = to_original_layout(pipeline(load_base(str(small_base))))
        change(weights)
        file = tmp_path / name
        if file.suffix == ".ckpt":
            torch.save({"state_dict": weights}, file)
        else:
            save_file(weights, file)
        return file

    return write


def assert_same_weights(base: Base, other: Base) -> None:
    for part in PARTS:
        weights, expected = getattr(base, part).state_dict(), getattr(other, part).state_dict()
        assert weights.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


def test_a_single_file_in_the_original_layout_is_the_base_it_was_made_of(
    write_single_file: Callable[..., Path], small_base: Path
) -> None:
    def add_what_training_leaves(weights: dict[str, torch.Tensor]) -> None:
        weights["betas"] = torch.linspace(0.00085, 0.012, 1000)
        weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]

    file = write_single_file(add_what_training_leaves)
    check_base(str(file))
    base = load_base(str(file))
    assert_same_weights(base, load_base(str(small_base)))
    assert base.sha256 == hash_files([file]) == fingerprint(str(file))
    assert base.name == f"{file} (weights, sha256 {base.sha256[:8]})"
    assert base.scheduler.config.beta_schedule == "scaled_linear"
    assert len(base.tokenizer) == base.text_encoder.config.vocab_size
    for part in PARTS:
        assert not getattr(base, part).training
        assert not any(parameter.requires_grad for parameter in getattr(base, part).parameters())


def test_a_pickled_single_file_is_the_base_it_was_made_of_where_unpickling_is_allowed(
    write_single_file: Callable[..., Path], small_base: Path
) -> None:
    file = write_single_file(name="model.ckpt")
    with pytest.raises(InputError, match="--allow-pickle"):
        load_base(str(file))
    base = load_base(str(file), allow_pickle=True)
    assert_same_weights(base, load_base(str(small_base)))
    assert base.sha256 == hash_files([file]) and base.sha256[:8] in base.name


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("model.diffusion_model.middle_block.1.proj_in.weight", "mid_block.attentions.0.proj_in.weight"),
        ("model.diffusion_model.input_blocks.2.0.op.bias", ""),
        ("first_stage_model.decoder.up.2.block.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "final_layer_norm.bias"),
        ("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight", "CLIPTextModel"),
    ],
)
def test_a_single_file_that_lacks_a_weight_is_refused(
    name: str, named: str, write_single_file: Callable[..., Path]
) -> None:
    file = write_single_file(lambda weights: weights.pop(name))
    with pytest.raises(InputError, match="cannot be loaded as a single file") as refusal:
        load_base(str(file))
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.output_blocks.1.1.conv.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    ],
)
def test_a_single_file_with_a_weight_of_another_shape_is_refused(
    name: str, write_single_file: Callable[..., Path]
) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights[name] = torch.cat([weights[name], weights[name]])

    with pytest.raises(InputError, match=r"cannot be loaded as a single file .*expected shape"):
        load_base(str(write_single_file(widen)))


def test_the_original_names_of_stable_diffusion_1_5_are_the_published_ones() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        pipe = SimpleNamespace(
            unet=UNet2DConditionModel(**random_base.UNET),
            vae=AutoencoderKL(**random_base.VAE),
            text_encoder=CLIPTextModel(CLIPTextConfig(**random_base.TEXT_ENCODER)),
        )
    shapes = {name: tuple(weight.shape) for name, weight in to_original_layout(pipe).items()}
    assert len(shapes) == 686 + 248 + 196
    published = {
        "model.diffusion_model.input_blocks.9.0.op.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "model.diffusion_model.middle_block.2.emb_layers.1.weight": (1280, 1280),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "first_stage_model.encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
    }
    assert published.items() <= shapes.items()
