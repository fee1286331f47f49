"""The pipeline: documents of many tenants become embeddings in Chroma, as Dagster assets."""
