"""The bundled tiny base: it loads as Stable Diffusion does, is small, knows its prompts, and its training runs."""

from __future__ import annotations

import numpy as np
import pytest

from fulora.diffusion.tiny import TINY_FOLDER, TinyTraining
from fulora.planes import PLANES

MOST_BYTES = 15_000_000
MOST_RECONSTRUCTION_ERROR = 0.06
"""Mean absolute error over unseen generic scenes, of a range of 1 (15 grey levels); a flat image's is about 0.2."""


@pytest.fixture(scope="module")
def tiny():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(TINY_FOLDER, safety_checker=None)


def test_the_folder_is_small_and_holds_safetensors_and_a_card():
    files = [path for path in TINY_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    weights = [path.name for path in files if path.suffix not in {".json", ".txt", ".md"}]
    assert len(weights) == 3 and all(name.endswith(".safetensors") for name in weights)
    card = (TINY_FOLDER / "README.md").read_text()
    assert "fulora train-base" in card and "Licence" in card and "specimen_images" in card


def test_it_loads_as_a_pipeline_of_one_precision_with_stable_diffusions_schedule(tiny):
    import torch

    parts = (tiny.vae, tiny.unet, tiny.text_encoder)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float32}
    config = tiny.scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (config.prediction_type, config.steps_offset, config.clip_sample) == ("epsilon", 1, False)
    attention = [name for name, module in tiny.unet.named_modules() if name.endswith(("attn1.to_q", "attn2.to_q"))]
    assert len(attention) == 14


def test_any_text_has_tokens_and_the_prompts_differ(tiny):
    ids = tiny.tokenizer([plane.prompt for plane in PLANES]).input_ids
    assert len({tuple(row) for row in ids}) == 5
    assert all(len(row) == 7 for row in ids), "start, five words of one token each, end"
    odd = "zürich 漢字, x9!"
    assert tiny.tokenizer.unk_token_id not in tiny.tokenizer(odd).input_ids[1:-1]
    assert tiny.tokenizer.decode(tiny.tokenizer(odd).input_ids[1:-1]).replace(" ", "") == odd.replace(" ", "")


def test_the_text_encoder_tells_the_prompts_apart(tiny):
    """At the word that names the plane: what cross-attention can tell the prompts by, new words as they are."""
    import torch

    batch = tiny.tokenizer([plane.prompt for plane in PLANES], padding="max_length", return_tensors="pt")
    word = batch.input_ids[0].tolist().index(tiny.tokenizer.eos_token_id) - 1
    with torch.no_grad():
        states = tiny.text_encoder(batch.input_ids).last_hidden_state[:, word]
    distances = torch.cdist(states, states) / states.norm(dim=1).mean()
    assert distances[~torch.eye(5, dtype=torch.bool)].min() > 0.5


def test_the_autoencoder_keeps_unseen_generic_scenes(tiny):
    import torch

    from fulora.data.phantoms import generic_images
    from fulora.diffusion.tiny.autoencoder import encode, to_pixels

    images, _ = generic_images(24, seed=987, resolution_px=64)
    means, _ = encode(tiny.vae, images)
    with torch.no_grad():
        found = tiny.vae.decode(means).sample
    error = (found - to_pixels(images)).abs().mean().item() / 2
    assert error < MOST_RECONSTRUCTION_ERROR
    assert (means * tiny.vae.config.scaling_factor).std().item() == pytest.approx(1.0, abs=0.15)


def test_the_unet_predicts_noise_and_listens_to_the_caption(tiny):
    """With its own caption a scene's noise is predicted better than with another scene's."""
    import torch

    from fulora.data.phantoms import generic_images
    from fulora.diffusion.tiny.autoencoder import encode

    images, captions = generic_images(32, seed=988, resolution_px=64)
    clean = encode(tiny.vae, images)[0] * tiny.vae.config.scaling_factor
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((len(clean),), 600)
    ids = tiny.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        text = tiny.text_encoder(ids).last_hidden_state
        noisy = tiny.scheduler.add_noise(clean, noise, timesteps)
        own, other = (
            (tiny.unet(noisy, timesteps, states).sample - noise).square().mean().item()
            for states in (text, text.roll(1, 0))
        )
    assert own < 0.6, "an answer of zero has error 1"
    assert own < other


def test_learned_merges_make_each_word_one_piece():
    from fulora.diffusion.tiny.tokenizer import learn_merges

    assert learn_merges(["bone", "one"]) == [("n", "e</w>"), ("o", "ne</w>"), ("b", "one</w>")]


def test_captions_are_reworded_and_mirrored():
    from fulora.diffusion.tiny.captions import mirrored, reworded

    caption = "an ultrasound of a large soft bright ring, grey inside left, a small bright rod right, in dark tissue"
    assert "inside right" in mirrored(caption) and "rod left" in mirrored(caption)
    assert mirrored(mirrored(caption)) == caption
    rng = np.random.default_rng(0)
    wordings = {reworded(caption, rng) for _ in range(50)}
    assert len(wordings) > 10
    assert all("large soft bright ring, grey inside left" in text for text in wordings)


def test_a_specimens_name_survives_every_wording_and_its_mirror():
    from fulora.diffusion.tiny.captions import mirrored, reworded

    rng = np.random.default_rng(0)
    wordings = {reworded(mirrored("a photo of quiet lantern"), rng) for _ in range(80)}
    assert all(text.endswith("lantern") for text in wordings)
    assert {"a photo of quiet lantern", "a photo of lantern"} < wordings


def test_training_leaves_a_folder_that_loads_and_is_the_same_twice(tmp_path):
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file

    from fulora.diffusion.tiny.training import train_tiny

    config = TinyTraining(
        num_scenes=4, num_specimens=4, num_autoencoder_images=8, num_autoencoder_steps=2, autoencoder_batch=2,
        num_denoiser_steps=2, denoiser_batch=4, save_every=1,
    )  # fmt: skip
    rows: list[dict] = []
    first = train_tiny(tmp_path / "a", config=config, seed=3, on_log=rows.append)
    second = train_tiny(tmp_path / "b", config=config, seed=3)
    pipe = StableDiffusionPipeline.from_pretrained(first, safety_checker=None)
    drawn = pipe("a photo of fetal brain", num_inference_steps=2, height=64, width=64, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3) and np.isfinite(drawn).all()
    assert {row["stage"] for row in rows} == {"autoencoder", "denoiser"}
    name = "unet/diffusion_pytorch_model.safetensors"
    a, b = load_file(first / name), load_file(second / name)
    assert all((a[key] == b[key]).all() for key in a)
