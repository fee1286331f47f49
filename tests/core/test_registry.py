from __future__ import annotations

import subprocess
import sys

import pytest

from minirag_pipelines.core.errors import InvalidInput, ModelUnknown
from minirag_pipelines.core.providers.models import Passage, Question
from minirag_pipelines.core.providers.registry import chat_model, embedder


def loaded_after(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter has after running the code."""
    shown = "import sys; print(*({'litellm', 'openai', 'onnxruntime'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{shown}"], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_local_models_answer_to_their_names() -> None:
    embeds = embedder("local/all-MiniLM-L6-v2")
    assert embeds.model == "local/all-MiniLM-L6-v2"
    assert embeds is embedder("local/all-MiniLM-L6-v2")
    answers = chat_model("local/extractive")
    reply = answers.answer(Question("When are refunds paid?", (Passage(1, "Refunds are paid within 30 days."),)))
    assert "[1]" in reply.text


def test_local_models_work_without_litellm() -> None:
    code = (
        "from minirag_pipelines.core.providers.registry import chat_model, embedder\n"
        "embedder('local/all-MiniLM-L6-v2').embed(['one'])\n"
        "chat_model('local/extractive')"
    )
    assert loaded_after(code).isdisjoint({"litellm", "openai"})


def test_naming_a_remote_model_loads_and_asks_nothing() -> None:
    code = (
        "import socket\n"
        "def refused(*_): raise AssertionError('a connection was made')\n"
        "socket.socket.connect = refused\n"
        "from minirag_pipelines.core.providers.registry import chat_model, embedder\n"
        "embedder('openai/text-embedding-3-small', dimension=1536).fingerprint\n"
        "embedder('ollama/nomic-embed-text')\n"
        "chat_model('anthropic/claude-sonnet-4-5', credentials={'api_key': 'k'})"
    )
    assert loaded_after(code) == set()


@pytest.mark.parametrize("model", ["local/nothing", "local/", "local/extractive"])
def test_an_unknown_local_embedder_is_told_the_local_ones(model: str) -> None:
    with pytest.raises(ModelUnknown, match=r"local models that embed are: local/all-MiniLM-L6-v2"):
        embedder(model)


def test_an_unknown_local_chat_model_is_told_the_local_ones() -> None:
    with pytest.raises(ModelUnknown, match=r"local models that answer are: local/extractive"):
        chat_model("local/all-MiniLM-L6-v2")


@pytest.mark.parametrize("model", ["", " ", "gpt 4", "/gpt-4o", "openai/", "openai//x", "a\nb", "x" * 201, "öpenai/x"])
def test_what_can_be_no_model_name_is_refused(model: str) -> None:
    with pytest.raises(ModelUnknown):
        embedder(model)
    with pytest.raises(ModelUnknown):
        chat_model(model)


@pytest.mark.parametrize(
    "model",
    ["gpt-4o-mini", "ollama/nomic-embed-text:v1.5", "hosted_vllm/BAAI/bge-m3", "vertex_ai/text-embedding@005"],
)
def test_names_as_litellm_writes_them_are_accepted(model: str) -> None:
    assert embedder(model).model == model
    assert chat_model(model).model == model


@pytest.mark.parametrize("credentials", [{"apikey": "k"}, {"headers": "X: y"}, {"headers": '{"X": 1}'}])
def test_credentials_of_no_known_shape_are_refused(credentials: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"^credentials: "):
        chat_model("gpt-4o-mini", credentials=credentials)


def test_nothing_that_is_printed_of_a_model_holds_its_key() -> None:
    key = "marker-8c1f77"
    model = chat_model("gpt-4o-mini", credentials={"api_key": key})
    assert key not in f"{model!r} {vars(model)!r}"
