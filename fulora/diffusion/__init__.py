"""Fine-tuning a latent diffusion base by LoRA and sampling from it, on one device, without Ray or Parquet.

In: a base (any Stable Diffusion 1.5 layout), images and captions. Out: adapter files, then images
from prompts and seeds.
Source: FU-LoRA section 2, equations (1) and (2).
"""
