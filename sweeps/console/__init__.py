"""What a person sees of a run: progress, tables that fit 80 columns, status."""
