"""Synthetic images: the sets of a study, their shards, how good they are and whether they are copies."""
