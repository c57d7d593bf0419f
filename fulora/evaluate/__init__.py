"""Measuring: scores and intervals of predictions, features, the judge of synthetic images, t-SNE, published tables."""
