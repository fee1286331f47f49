"""LiteLLM's side of a provider: one call, retried by us, its errors in our words, its price.

LiteLLM is imported at the first call (2.6 s, 177 MB), never before. Nothing of it is seen past this module and the two
beside it, the embedder and the chat model.
"""

from __future__ import annotations

import email.utils
import importlib
import inspect
import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import tenacity

from minirag_pipelines.core.errors import (
    ContentRefused,
    InvalidInput,
    MiniRAGError,
    ModelUnknown,
    ProviderRefused,
    ProviderUnavailable,
)

T = TypeVar("T")

SECRET_CREDENTIALS = frozenset({"api_key", "aws_access_key_id", "aws_secret_access_key", "vertex_credentials"})
CREDENTIALS = SECRET_CREDENTIALS | {
    "api_base",
    "api_version",
    "organization",
    "headers",  # a JSON object
    "aws_region_name",
    "vertex_project",
    "vertex_location",
}
SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$")
LOOKS_SECRET = re.compile(
    r"-----BEGIN[^-]*-----.*?(?:-----END[^-]*-----|$)"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|pplx|AIza|AKIA)[-_*]?[\w*.-]{12,}"
    r"|(?<=//)[^/\s@]+:[^/\s@]+(?=@)"
    r"|(?i:(?<=bearer )|(?<=basic )|(?<=api-key: )|(?<=api_key=)|(?<=apikey=)|(?<=[?&]key=))[^\s'\",&}]+",
    re.DOTALL,
)
NOT_CONFIGURED = re.compile(r"Missing credentials|Missing .*API key|api_key client option|No API (?:key|base)", re.I)
NOBODY_ANSWERS = re.compile(r"LLM Provider NOT provided|Unmapped LLM provider")
PACKAGE_MISSING = re.compile(r"No module named '([\w.]+)'")
LITELLM_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?: Error)?\s*[:-]\s*)+")

LITELLM_SUFFIX = re.compile(r"\s*(?:Traceback \(most recent call last\).*|Handle with `litellm\.\w+`\.\s*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a call that may yet succeed is repeated: exponential waits with full jitter, or what Retry-After says.

    A wait that would end after `total_s` is not begun.
    """

    attempts: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    total_s: float = 120.0


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _litellm() -> ModuleType:
    # Read by LiteLLM while it is imported: no price list from the network, no `.env` file.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    litellm: Any = importlib.import_module("litellm")
    litellm.suppress_debug_info = True
    # What it logs may hold keys, and all of it reaches us as errors anyway.
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    # `max_retries=0` alone is taken for "not given" by its OpenAI embeddings.
    litellm.DEFAULT_MAX_RETRIES = 0
    litellm.num_retries = None
    return litellm  # type: ignore[no-any-return]  # it has no stubs that hold for what is set above


def litellm() -> Any:
    """The module, imported at the first call."""
    with _loading:
        module = _litellm()
    # Said by pydantic about LiteLLM's own records, at calls. Put in place again each time, because whoever resets the
    # filters (pytest does, for each test) removes them.
    warnings.filterwarnings("ignore", "Item '.*' on TypedDict class '.*' is using the `ReadOnly`", UserWarning)
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
    warnings.filterwarnings("ignore", "Accessing the 'model_(computed_)?fields' attribute", DeprecationWarning)
    return module


@lru_cache(maxsize=1)
def driver_errors() -> tuple[type[Exception], ...]:
    """All that a call through LiteLLM raises: its exceptions share no base."""
    litellm()
    own = (cls for _, cls in inspect.getmembers(importlib.import_module("litellm.exceptions"), inspect.isclass))
    openai_error: type[Exception] = importlib.import_module("openai").OpenAIError
    return (
        openai_error,
        httpx.HTTPError,
        ImportError,
        *(cls for cls in own if issubclass(cls, Exception)),
    )


# What an exception means, by the name of its class, the nearest of its bases if it has no entry of its own:
#   unavailable  a rerun may help                  content  what was sent is refused
#   refused      a rerun changes nothing           unknown  there is no such model or provider
#   status       what its status code says
MEANINGS = {
    "APIConnectionError": "unavailable",
    "APIError": "status",
    "APIResponseValidationError": "unavailable",
    "APIStatusError": "status",
    "AuthenticationError": "refused",
    "BadGatewayError": "unavailable",
    "BadRequestError": "content",
    "BlockedPiiEntityError": "content",
    "BudgetExceededError": "refused",
    "ContentPolicyViolationError": "content",
    "ContextWindowExceededError": "content",
    "GuardrailRaisedException": "content",
    "HTTPError": "unavailable",
    "ImageFetchError": "content",
    "ImportError": "unknown",
    "InternalServerError": "unavailable",
    "InvalidRequestError": "content",
    "JSONSchemaValidationError": "unavailable",
    "LiteLLMUnknownProvider": "unknown",
    "MidStreamFallbackError": "status",
    "MockException": "status",
    "ModelNotMappedError": "unknown",
    "ModifyResponseException": "content",
    "NotFoundError": "refused",
    "OpenAIError": "unavailable",
    "PaymentRequiredError": "refused",
    "PermissionDeniedError": "refused",
    "RateLimitError": "unavailable",
    "RejectedRequestError": "content",
    "SensitiveDataRouteException": "content",
    "ServiceUnavailableError": "unavailable",
    "Timeout": "unavailable",
    "UnprocessableEntityError": "content",
    "UnsupportedParamsError": "refused",
    "VectorStoreSearchError": "refused",
}


def meaning(error: BaseException) -> str:
    """One of the words of MEANINGS, `status` resolved."""
    found = next((MEANINGS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in MEANINGS), "unavailable")
    if found != "status":
        return found
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or status >= 500 or status in {408, 409, 425, 429}:
        return "unavailable"
    return "content" if status in {400, 413, 422} else "refused"


def translated(error: BaseException, model: str, secrets: Iterable[str] = ()) -> MiniRAGError:
    """One of LiteLLM's errors as one of ours, without keys."""
    said = str(error) or type(error).__name__
    reason = redacted(LITELLM_SUFFIX.sub("", LITELLM_PREFIX.sub("", said)) or said, secrets)
    if package := PACKAGE_MISSING.search(said):
        return ModelUnknown(model, f"its provider needs the package {package[1]!r}, which is not installed.")
    if NOBODY_ANSWERS.search(said):
        return ModelUnknown(model, "no provider answers to it here; write it as LiteLLM does, provider/model.")
    if NOT_CONFIGURED.search(said):
        return ProviderRefused(
            model, "no key, or no address, is given: set it with the credentials or the environment."
        )
    word = meaning(error)
    if word == "unavailable":
        return ProviderUnavailable(model, reason, retry_after_s=_retry_after_s(error))
    return {"unknown": ModelUnknown, "refused": ProviderRefused, "content": ContentRefused}[word](model, reason)


def _retry_after_s(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    for source in (headers, getattr(error, "litellm_response_headers", None)):
        value = source.get("retry-after") if source else None
        if value is None:
            continue
        try:
            return max(0.0, float(value))
        except ValueError:
            try:
                return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
            except ValueError:
                return None
    return None


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text on one line of at most 300 characters, without `secrets`, the environment's, or what looks like one."""
    # A short value of the environment is more likely a word of the message than a key.
    environment = {value for name, value in os.environ.items() if SECRET_VARIABLE.search(name) and len(value) >= 8}
    for secret in sorted(filter(None, environment.union(secrets)), key=len, reverse=True):
        text = text.replace(secret, "[secret]")
    line = " ".join(LOOKS_SECRET.sub("[secret]", text).split())
    return line if len(line) <= 300 else line[:299] + "…"


@dataclass(frozen=True)
class Connection:
    """How one model is reached. Without credentials, LiteLLM reads its own variables (OPENAI_API_KEY, …)."""

    model: str
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 120.0
    retries: Retries = Retries()

    def __post_init__(self) -> None:
        for name in self.credentials.keys() - CREDENTIALS:
            raise InvalidInput("credentials", f"{name!r} is not one of {', '.join(sorted(CREDENTIALS))}.")
        try:
            headers = json.loads(self.credentials.get("headers", "{}"))
        except ValueError:
            headers = None
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise InvalidInput("credentials", "headers is not a JSON object of texts.")

    @cached_property
    def base(self) -> str:
        """The address that is asked, as far as it is told apart from the provider's own: "" is the latter."""
        provider = self.model.partition("/")[0].upper() if "/" in self.model else "OPENAI"
        variables = (os.environ.get(f"{provider}_BASE_URL"), os.environ.get(f"{provider}_API_BASE"))
        address = self.credentials.get("api_base") or next(filter(None, variables), None)
        if not address:
            return ""
        parts = urlsplit(address)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}".lower()

    def call(self, attempt: Callable[[Any, dict[str, Any]], T]) -> tuple[T, int]:
        """What `attempt(litellm, arguments)` returns, and how often it was repeated.

        Raises ProviderUnavailable when all attempts failed, ProviderRefused and ModelUnknown at the first.
        """
        backoff = tenacity.wait_random_exponential(self.retries.first_wait_s, self.retries.longest_wait_s)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(getattr(error, "retry_after_s", None) or 0.0, backoff(state))

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retries.attempts) | tenacity.stop_before_delay(self.retries.total_s),
            wait=wait,
            retry=tenacity.retry_if_exception_type(ProviderUnavailable),
            reraise=True,
        )
        result = retrying(self.translating, lambda: attempt(litellm(), self._arguments()))
        return result, retrying.statistics["attempt_number"] - 1

    def translating(self, work: Callable[[], T]) -> T:
        """What `work` returns; what it raises, in our words."""
        try:
            return work()
        except driver_errors() as error:
            ours = translated(error, self.model, self._secrets)
        # Not inside the clause above: the provider's words may hold a key, and a chained error is printed and stored.
        raise ours

    def listing(self) -> dict[str, Any]:
        """What LiteLLM's price list says of the model; empty if it says nothing. Asks nobody."""
        prices: dict[str, dict[str, Any]] = litellm().model_cost
        provider, _, name = self.model.partition("/")
        own = prices.get(name, {})
        return prices.get(self.model) or (own if str(own.get("litellm_provider", "")).startswith(provider) else {})

    def cost_usd(self, call_type: str, usage: Any) -> float | None:
        """What a call took, None if the model's price is not known."""
        if self.listing().get("input_cost_per_token") is None:
            return None
        try:
            prompt, completion = litellm().cost_per_token(self.model, usage_object=usage, call_type=call_type)
        except driver_errors():
            return None
        return float(prompt + completion)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"model": self.model, "timeout": self.timeout_s, "num_retries": 0, "max_retries": 0}
        arguments |= {name: value for name, value in self.credentials.items() if name != "headers"}
        if "headers" in self.credentials:
            arguments["extra_headers"] = json.loads(self.credentials["headers"])
        if "api_base" in self.credentials:
            # Else LiteLLM would send the environment's key to whatever server the tenant names.
            arguments.setdefault("api_key", "none")
        return arguments

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        values = [value for name, value in self.credentials.items() if name in SECRET_CREDENTIALS]
        for value in json.loads(self.credentials.get("headers", "{}")).values():
            values += [value, value.rpartition(" ")[2]]
        return tuple(values)
