"""Images of the study: readers of each source, their audit, the regimes a classifier trains on, and their pixels."""
