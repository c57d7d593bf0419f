"""Synthetic images: the sets of a study, their shards, fidelity and memorisation."""
