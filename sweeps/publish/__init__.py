"""What leaves a run: an adapter on the Hugging Face hub, and the run beside the paper's tables."""
