"""The model card written beside the weights.

In: the settings of a training. Out: Markdown with Hugging Face's front matter.
"""

from __future__ import annotations

from collections.abc import Mapping

_CARD = """---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---
# Tiny base of fulora

A latent diffusion model of 64 x 64 pixels in the form of Stable Diffusion 1.5 (AutoencoderKL to 4 x 16 x 16 latents,
UNet2DConditionModel with self- and cross-attention at 8 x 8 and 4 x 4, CLIPTextModel, CLIPTokenizer with a vocabulary
of its own, the noise schedule of Stable Diffusion 1.5), small enough to fine-tune and sample on a CPU.

- **Trained on**: {num_scenes} made-up ultrasound scenes with descriptions (`fulora.data.phantoms.generic_images`, seed
  {seed}: cysts, rings, rods, beads, lumps and layers at random places) and {num_specimens} named specimens
  (`specimen_images`: fixed arrangements of such shapes under everyday words, "a photo of quiet lantern"). No
  photograph, no patient, no published image, none of the five planes of the study, and neither of its two looks.
- **For**: trying, testing and demonstrating LoRA fine-tuning without a download. It knows no anatomy, and it is no
  medical device.
- **Made by**: `fulora train-base DIR --seed {seed}`, {minutes:.0f} minutes on {threads} threads of a server CPU. The
  same seed, versions and number of threads give the same weights; other machines round otherwise.
- **Settings**: {settings}
- **Licence**: MIT, as the code. It was trained from random weights; no other model's weights are in it.

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("fulora/diffusion/tiny_base")
image = pipe("a photo of quiet lantern", num_inference_steps=20, guidance_scale=3).images[0]
```
"""


def model_card(settings: Mapping[str, object], *, seed: int, minutes: float, threads: int) -> str:
    """Return the card's text."""
    listed = ", ".join(f"`{name}={value}`" for name, value in settings.items())
    return _CARD.format(**settings, seed=seed, minutes=minutes, threads=threads, settings=listed)
