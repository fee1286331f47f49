"""One module for each family of formats: bytes → title and pieces."""
