"""Evaluation: scores and intervals, image features, fidelity, memorisation, the judge, t-SNE, published tables."""
