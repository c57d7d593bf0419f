"""The rank sweep: one LoRA fine-tuning per rank, the judge beside them, and the search beyond the paper's ranks."""
