"""Serving: answers questions from the collections that the pipeline has published, with citations."""

from minirag_serving.records import Answer, Citation, Hit, SearchResult
from minirag_serving.service import MiniRAG

__all__ = ["Answer", "Citation", "Hit", "MiniRAG", "SearchResult"]
