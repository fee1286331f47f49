"""Serving: questions in, passages and answers with citations out, from what the pipeline has published."""
