"""The images of a study: both sources read into one catalog, audited, and selected from."""
