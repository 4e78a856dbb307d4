"""Artifacts as objects of the GraphQL schema. Names are the schema's."""

import mimetypes

from .artifacts import hex_digest
from .identity import global_id
from .query import page


def project_info(entity, name):
    """Returns the fields that tell a project from others.

    Args:
        entity, name: Str.
    """
    return {
        "id": global_id("Project:v1", f"{name}:{entity}"),
        "internalId": global_id("ProjectInternalId", 1),
        "name": name,
        "entity": {"id": global_id("Entity", entity), "name": entity},
    }


def project_artifact_fields(artifacts, entity, project):
    """Returns the fields of a project through which artifacts are found.

    Args:
        artifacts: Artifacts.
        entity, project: Str.
    """

    def membership(name):
        found = artifacts.by_name(entity, project, name)
        return _membership_view(artifacts, found) if found else None

    def collection(name):
        found = artifacts.collection(entity, project, name)
        return _collection_view(artifacts, found) if found else None

    def artifact(name):
        found = artifacts.by_name(entity, project, name)
        return artifact_view(artifacts, found) if found else None

    return {
        "artifact": artifact,
        "artifactCollectionMembership": membership,
        "artifactCollection": collection,
        "artifactType": lambda name: {
            "__typename": "ArtifactType",
            "id": global_id("ArtifactType", name),
            "name": name,
            "artifactCollection": collection,
        },
    }


def artifact_view(artifacts, artifact):
    """Returns a version's fields.

    Args:
        artifacts: Artifacts.
        artifact: Artifact.
    """
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "state": artifact.state,
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "artifactSequence": lambda: _collection_view(artifacts, [artifact]),
        "description": artifact.description,
        "metadata": artifact.metadata_json,
        "ttlDurationSeconds": -2,  # the schema's number for "never expires"
        "ttlIsInherited": True,
        "tags": [{"__typename": "Tag", "id": global_id("Tag", t), "name": t} for t in artifact.tags],
        "historyStep": None,
        "size": sum(entry.get("size", 0) for entry in artifact.entries.values()),
        "digest": artifact.digest,
        "digestAlgorithm": "MANIFEST_MD5",
        "commitHash": None,
        "fileCount": len(artifact.entries),
        "createdAt": artifact.created,
        "updatedAt": artifact.created,
        "aliases": lambda: _alias_views(artifacts, artifact),
        "currentManifest": {"file": {"directUrl": artifacts.manifest_url(artifact)}},
        "createdBy": lambda: _run_info(artifact.run, artifact) if artifact.run else None,
        "usedBy": lambda: page(artifact.used_by, lambda name: _run_info(name, artifact)),
    }


def _run_info(name, artifact):
    return {
        "__typename": "Run",
        "id": global_id("Run:v1", f"{name}:{artifact.project}:{artifact.entity}"),
        "name": name,
        "project": project_info(artifact.entity, artifact.project),
    }


def _alias_views(artifacts, artifact):
    return [
        {
            "__typename": "ArtifactAlias",
            "id": global_id("ArtifactAlias", f"{artifact.number}:{alias}"),
            "alias": alias,
            "artifactCollection": lambda: _collection_view(artifacts, [artifact]),
        }
        for alias in artifact.aliases
    ]


def _collection_view(artifacts, versions):
    one = versions[0]
    known = artifacts.collection(one.entity, one.project, one.collection)

    def membership(aliasName):
        found = artifacts.by_name(one.entity, one.project, f"{one.collection}:{aliasName}")
        return _membership_view(artifacts, found) if found else None

    return {
        "__typename": "ArtifactSequence",
        "id": global_id("ArtifactCollection", f"{one.entity}/{one.project}/{one.collection}"),
        "name": one.collection,
        "description": None,
        "createdAt": one.created,
        "updatedAt": known[-1].created if known else one.created,
        "project": project_info(one.entity, one.project),
        "defaultArtifactType": {"name": one.type},
        "digestAlgorithm": "MANIFEST_MD5",
        "tags": {"edges": []},
        "latestArtifact": lambda: artifact_view(artifacts, known[-1]) if known else None,
        "artifactMembership": membership,
        "artifacts": lambda first=None, after=None, order=None, filters=None: _versions_page(
            artifacts, known, first, after
        ),
    }


def _versions_page(artifacts, versions, first, after):
    newest_first = versions[::-1]
    found = page(newest_first, lambda a: artifact_view(artifacts, a), first, after)
    for edge in found["edges"]:
        edge["version"] = f"v{edge['node']['versionIndex']}"
    return found


def _membership_view(artifacts, artifact):
    def files(names=None, first=None, after=None):
        paths = [path for path in artifact.entries if not names or path in names]
        return page(paths, lambda path: _entry_view(artifacts, artifact, path), first, after)

    return {
        "__typename": "ArtifactCollectionMembership",
        "id": global_id("ArtifactCollectionMembership", artifact.number),
        "versionIndex": artifact.version,
        "createdAt": artifact.created,
        "aliases": lambda: _alias_views(artifacts, artifact),
        "artifactCollection": lambda: _collection_view(artifacts, [artifact]),
        "artifact": lambda: artifact_view(artifacts, artifact),
        "files": files,
    }


def _entry_view(artifacts, artifact, path):
    entry = artifact.entries[path]
    url = artifacts.content_url(entry["digest"])
    return {
        "__typename": "File",
        "id": global_id("File", f"{artifact.number}/{path}"),
        "name": path,
        "displayName": path,
        "url": url,
        "directUrl": url,
        "sizeBytes": entry.get("size", 0),
        "storagePath": hex_digest(entry["digest"]),
        "mimetype": mimetypes.guess_type(path)[0],
        "updatedAt": artifact.created,
        "digest": entry["digest"],
        "md5": entry["digest"],
    }
