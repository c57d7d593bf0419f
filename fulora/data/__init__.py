"""Images of a study: readers and layouts of each source, duplicate audit, training regimes, and pixel stores."""
