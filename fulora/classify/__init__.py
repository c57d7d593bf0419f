"""Plane classifiers: the paper's five architectures, augmentation, training and prediction."""
