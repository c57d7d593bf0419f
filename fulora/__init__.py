"""FU-LoRA: synthetic fetal ultrasound from a fine-tuned diffusion model, and whether it helps a classifier.

The science of the study, runnable on a laptop or one GPU without Ray. Importing any module does nothing.
Source: Wang et al., "Generative Diffusion Model Bootstraps Zero-shot Classification of Fetal Ultrasound Images In
Underrepresented African Populations", arXiv 2407.20072 (2024).
"""

__version__ = "0.1.0"
