"""Models that embed and models that answer: the local ones, and every other one through LiteLLM."""
