"""A run through the stack's webserver: GraphQL, as the UI speaks it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from minirag_pipelines.cli.syncing import LOCATION, REPOSITORY, STEPS, Outcome
from minirag_pipelines.core.errors import WebserverUnavailable
from minirag_pipelines.core.settings import Settings

PATIENCE_S = 60.0
_SELECTOR = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name displayMetadata { key value } } } } }"""
_ADD_PARTITION = """
mutation ($repository: RepositorySelector!, $partition: String!) {
  addDynamicPartition(repositorySelector: $repository, partitionsDefName: "tenants", partitionKey: $partition) {
    __typename
    ... on UnauthorizedError { message }
    ... on PythonError { message }
  }
}"""
_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message }
  }
}"""
_PROGRESS = """
query ($run: ID!, $after: String) {
  runOrError(runId: $run) {
    ... on Run {
      status
      eventConnection(afterCursor: $after) {
        cursor
        events { __typename ... on MessageEvent { message stepKey } }
      }
    }
  }
}"""
_RESULT = """
query ($run: ID!) {
  runOrError(runId: $run) {
    ... on Run {
      assetMaterializations {
        assetKey { path }
        metadataEntries {
          label
          ... on IntMetadataEntry { intRepr }
          ... on FloatMetadataEntry { floatValue }
          ... on JsonMetadataEntry { jsonString }
          ... on TextMetadataEntry { text }
        }
      }
      eventConnection(afterCursor: null) {
        events {
          __typename
          ... on ExecutionStepFailureEvent { error { message causes { message } } failureMetadata { description } }
          ... on RunFailureEvent { message error { message } }
        }
      }
    }
  }
}"""


def answers(settings: Settings) -> bool:
    """Whether our webserver answers: where that of a stack that was killed had been, another home's may be now."""
    if settings.ui_url is None:
        return False
    try:
        with httpx.Client(base_url=settings.ui_url, timeout=5) as client:
            locations = _ask(client, _LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    except WebserverUnavailable:
        return False
    ours = [one for one in locations if one["name"] == LOCATION]
    port = {"key": "port", "value": str(settings.code_location_port)}
    return any(settings.code_location_port is None or port in one["displayMetadata"] for one in ours)


def run(settings: Settings, tenant: str, config: Mapping[str, Any], update: Callable[[str], None]) -> Outcome:
    """Launch the `sync` job and wait until it has ended. Raises WebserverUnavailable."""
    with httpx.Client(base_url=settings.ui_url or "", timeout=30) as client:
        # Patiently: the webserver's connections are stale when PostgreSQL has just been started again.
        _ask_patiently(client, _ADD_PARTITION, repository=_SELECTOR, partition=tenant)
        launched = _ask(
            client,
            _LAUNCH,
            params={
                "selector": _SELECTOR | {"jobName": "sync"},
                "runConfigData": json.dumps(config),
                "executionMetadata": {
                    "tags": [
                        {"key": "dagster/partition", "value": tenant},
                        # Runs that people wait for go before those that nobody does.
                        {"key": "dagster/priority", "value": "10"},
                        # Not to be done once more, unasked: a source may be empty for another reason then.
                        *([{"key": "dagster/max_retries", "value": "0"}] if _is_believing(config) else []),
                    ]
                },
            },
        )["launchRun"]
        if launched["__typename"] != "LaunchRunSuccess":
            raise WebserverUnavailable(str(client.base_url), _first_line(launched.get("message")) or str(launched))
        run_id = launched["run"]["runId"]
        status = _wait(client, run_id, update)
        return _outcome(client, run_id, status)


def _is_believing(config: Mapping[str, Any]) -> bool:
    return bool(config["ops"]["sources"]["config"]["allow_empty"])


def _wait(client: httpx.Client, run_id: str, update: Callable[[str], None]) -> str:
    cursor, said = None, ""
    while True:
        found = _ask_patiently(client, _PROGRESS, run=run_id, after=cursor)["runOrError"]
        status = str(found["status"])
        if status in ("SUCCESS", "FAILURE", "CANCELED"):
            return status
        cursor = found["eventConnection"]["cursor"]
        for event in found["eventConnection"]["events"]:
            if event["__typename"] == "ExecutionStepStartEvent":
                said = STEPS.get(event["stepKey"], event["stepKey"])
            elif event["__typename"] == "LogMessageEvent":
                said = event["message"]
        update(said or status.lower().replace("_", " "))
        time.sleep(0.15)


def _outcome(client: httpx.Client, run_id: str, status: str) -> Outcome:
    found = _ask_patiently(client, _RESULT, run=run_id)["runOrError"]
    outcome = Outcome(run_id, status == "SUCCESS")
    for materialization in found["assetMaterializations"]:
        entries = {entry["label"]: _value(entry) for entry in materialization["metadataEntries"]}
        outcome.metadata[materialization["assetKey"]["path"][-1]] = entries
    if not outcome.succeeded:
        outcome.error = _error(found["eventConnection"]["events"]) or f"The run was {status.lower()}."
    return outcome


def _value(entry: Mapping[str, Any]) -> Any:
    if "intRepr" in entry:
        return int(entry["intRepr"])
    if "jsonString" in entry:
        return json.loads(entry["jsonString"])
    return entry.get("floatValue", entry.get("text"))


def _error(events: list[dict[str, Any]]) -> str | None:
    for event in events:
        if event["__typename"] == "ExecutionStepFailureEvent":
            described = (event["failureMetadata"] or {}).get("description")
            error = event["error"] or {}
            # Dagster's own words say only that a step failed.
            return described or _first_line([error, *error.get("causes", [])][-1].get("message"))
    for event in events:
        if event["__typename"] == "RunFailureEvent":
            return _first_line((event["error"] or {}).get("message") or event["message"])
    return None


def _first_line(message: str | None) -> str | None:
    return next((line for line in (message or "").splitlines() if line.strip()), None)


def _ask(client: httpx.Client, query: str, **variables: object) -> dict[str, Any]:
    address = str(client.base_url)
    try:
        answer = client.post("/graphql", json={"query": query, "variables": variables}).json()
    except (httpx.HTTPError, ValueError) as error:
        raise WebserverUnavailable(address, f"{type(error).__name__}.") from error
    if not isinstance(answer, dict) or not answer.keys() & {"data", "errors"}:
        raise WebserverUnavailable(address, "it is another program.")
    if answer.get("errors"):
        raise WebserverUnavailable(address, _first_line(str(answer["errors"][0].get("message"))) or "an error.")
    data: dict[str, Any] = answer["data"]
    return data


def _ask_patiently(client: httpx.Client, query: str, **variables: object) -> dict[str, Any]:
    """The run goes on without us: a webserver or a database that is away for a moment is asked again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _ask(client, query, **variables)
        except WebserverUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
