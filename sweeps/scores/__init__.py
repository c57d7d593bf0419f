"""From predictions to scores: every number printed is computed here, never during training."""
