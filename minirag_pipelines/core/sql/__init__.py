"""Named statements of the stores in `core`, one file a store."""
