"""Named statements that only the pipeline runs, one file a stage."""
