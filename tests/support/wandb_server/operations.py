"""The GraphQL operations: what each root field reads or changes."""

import json

from . import schedule
from .artifact_mutations import artifact_mutations
from .artifact_views import artifact_view, project_info
from .executor import GraphQLError, execute
from .identity import global_id
from .store import DEFAULT_PROJECT, ENTITY, Agent
from .views import file_url, project_view, run_view, sweep_view

# Features of the real server that this one has. Without a feature the client uses an older protocol.
FEATURES = ("FILESTREAM_GZIP", "MARK_RUN_FILES_UPLOADED")


def answer(store, request):
    """Answers one request to /graphql.

    Args:
        store: Store, locked by the caller.
        request: Dict: `query` and `variables`.

    Returns:
        Dict, what goes under `data`.

    Raises:
        UnknownError: the server has no answer for it.
        GraphQLError: an operation refused.
    """
    root = {"__typename": "Query", **_queries(store), **_mutations(store)}
    return execute(request["query"], request.get("variables"), root)


def _queries(store):
    def project(name=None, entityName=None):
        return project_view(store, entityName or ENTITY, name or DEFAULT_PROJECT)

    return {
        "viewer": _viewer(),
        "serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]},
        "entity": lambda name: {
            "id": global_id("Entity", name),
            "name": name,
            "organization": None,
            "user": None,
            "xxhashDigestsEnabled": False,
        },
        "project": project,
        "model": project,
        "artifact": lambda id: artifact_view(store.artifacts, store.artifacts.by_id(id)),
        "clientIDMapping": lambda clientID: {"serverID": store.artifacts.by_id(clientID).id},
        # Introspection: the client does not use a type that the schema lacks.
        "__type": lambda name: None,
    }


def _viewer():
    return {
        "__typename": "User",
        "id": global_id("User", ENTITY),
        "entity": ENTITY,
        "name": "Tester",
        "username": ENTITY,
        "email": "tester@example.com",
        "flags": "{}",
        "admin": False,
        "deletedAt": None,
        "apiKeys": {"edges": []},
        "teams": {"edges": []},
    }


def _mutations(store):
    def upsert_model(input):
        entity = input.get("entityName") or ENTITY
        inserted = (entity, input["name"]) not in store.projects
        store.projects.add((entity, input["name"]))
        fields = {**project_info(entity, input["name"]), "entityName": entity}
        fields.update(description=None, access=None, views=None)
        return {"project": fields, "model": fields, "inserted": inserted}

    def delete_run(input):
        del store.runs[store.run_by_id(input["id"]).name]
        return {"clientMutationId": None}

    def stop_run(input):
        store.run_by_id(input["id"]).stop_requested = True
        return {"success": True}

    return {
        **artifact_mutations(store.artifacts),
        "upsertModel": upsert_model,
        "upsertSweep": lambda input: _upsert_sweep(store, input),
        "createAgent": lambda input: _create_agent(store, input),
        "agentHeartbeat": lambda input: _heartbeat(store, input),
        "upsertBucket": lambda input: _upsert_bucket(store, input),
        "deleteRun": delete_run,
        "stopRun": stop_run,
        "createRunFiles": lambda input: _create_run_files(store, input),
        "markRunFilesUploaded": lambda input: {"success": True},
    }


def _upsert_sweep(store, input):
    sweep = store.upsert_sweep(
        entity=input.get("entityName"),
        project=input.get("projectName"),
        storage_id=input.get("id"),
        config=input.get("config"),
        state=input.get("state"),
        display_name=input.get("displayName"),
    )
    return {"sweep": sweep_view(store, sweep), "configValidationWarnings": []}


def _create_agent(store, input):
    if input["sweep"] not in store.sweeps:
        raise GraphQLError(f"could not find sweep {input['sweep']}")
    agent = Agent(name=f"agent{len(store.agents) + 1}", sweep=input["sweep"], host=input["host"])
    store.agents[agent.id] = agent
    return {"agent": {"id": agent.id}}


def _heartbeat(store, input):
    if input["id"] not in store.agents:
        raise GraphQLError("could not find agent", status=404)  # 404 makes the agent leave
    agent = store.agents[input["id"]]
    live = {name for name, alive in json.loads(input.get("runState") or "{}").items() if alive}
    # The commands are text inside the JSON answer.
    return {"agent": {"id": agent.id}, "commands": json.dumps(schedule.heartbeat(store, agent, live))}


# The input's name → the run's attribute, where a null leaves it unchanged.
_ATTRIBUTES = {
    "groupName": "group",
    "jobType": "job_type",
    "displayName": "display_name",
    "notes": "notes",
    "description": "description",
    "commit": "commit",
    "host": "host",
    "jobProgram": "program",
    "state": "state",
    "sweep": "sweep",
    "tags": "tags",
}


def _upsert_bucket(store, input):
    if input.get("id"):
        run, inserted = store.run_by_id(input["id"]), False
    else:
        run, inserted = _named_run(store, input)
    for name, attribute in _ATTRIBUTES.items():
        if input.get(name) is not None:
            setattr(run, attribute, input[name])
    if input.get("config") is not None:
        run.raw_config = json.loads(input["config"])
    if input.get("summaryMetrics") is not None:
        run.summary = json.loads(input["summaryMetrics"])
    return {"bucket": run_view(store, run), "inserted": inserted}


def _named_run(store, input):
    name = input.get("name") or f"run{len(store.runs) + 1:05d}"
    if name not in store.runs:
        place = {"entity": input.get("entityName"), "project": input.get("modelName")}
        store.create_run(name, **{key: value for key, value in place.items() if value})
    run = store.runs[name]
    # A sweep's run is there from the moment an agent was told to start it.
    inserted, run.initialised = not run.initialised, True
    return run, inserted


def _create_run_files(store, input):
    run = store.runs.get(input["runName"])
    if run is None:
        raise GraphQLError(f"could not find run {input['runName']}")
    files = [{"name": name, "uploadUrl": file_url(store, run, name)} for name in input["files"]]
    return {"runID": run.id, "uploadHeaders": [], "files": files}
