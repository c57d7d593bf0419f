"""The classifier grid: models x regimes x seeds, and training sets with more and more synthetic images."""
