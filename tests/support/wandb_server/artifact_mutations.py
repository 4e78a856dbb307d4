"""The GraphQL operations that change artifacts. Names are the schema's."""

from .artifact_views import artifact_view
from .artifacts import hex_digest
from .identity import global_id


def artifact_mutations(artifacts):
    """Returns the operations that change artifacts, by name.

    Args:
        artifacts: Artifacts.
    """

    def answer(artifact):
        return {"artifact": artifact_view(artifacts, artifact)}

    def manifest(input):
        artifact = artifacts.by_id(input.get("artifactID") or input.get("artifactManifestID"))
        url = artifacts.manifest_url(artifact)
        file = {"id": global_id("File", f"manifest/{artifact.number}"), "uploadUrl": url, "uploadHeaders": []}
        # The manifest's id is the artifact's: here, each version has one manifest.
        return {"artifactManifest": {"id": artifact.id, "file": file}}

    def files(input):
        return {"files": {"edges": [{"node": _upload_view(artifacts, f)} for f in input["artifactFiles"]]}}

    def commit(input):
        artifact = artifacts.by_id(input["artifactID"])
        artifacts.commit(artifact)
        return answer(artifact)

    def use(input):
        artifact = artifacts.by_id(input["artifactID"])
        if input["runName"] not in artifact.used_by:
            artifact.used_by.append(input["runName"])
        return answer(artifact)

    def update(input):
        artifact = artifacts.by_id(input["artifactID"])
        artifact.metadata_json = input.get("metadata") or artifact.metadata_json
        artifact.description = input.get("description") or artifact.description
        gone = [tag["tagName"] for tag in input.get("tagsToDelete") or []]
        new = [tag["tagName"] for tag in input.get("tagsToAdd") or []]
        artifact.tags = [tag for tag in artifact.tags if tag not in gone] + new
        return answer(artifact)

    def add_aliases(input):
        aliases = [alias["alias"] for alias in input["aliases"]]
        artifacts.add_aliases(artifacts.by_id(input["artifactID"]), aliases)
        return {"success": True}

    def delete_aliases(input):
        artifact = artifacts.by_id(input["artifactID"])
        gone = [alias["alias"] for alias in input["aliases"]]
        artifact.aliases = [alias for alias in artifact.aliases if alias not in gone]
        return {"success": True}

    return {
        "createArtifact": lambda input: answer(artifacts.create(input)),
        "createArtifactManifest": manifest,
        "updateArtifactManifest": manifest,
        "createArtifactFiles": files,
        "commitArtifact": commit,
        "useArtifact": use,
        "updateArtifact": update,
        "addAliases": add_aliases,
        "deleteAliases": delete_aliases,
    }


def _upload_view(artifacts, file):
    known = hex_digest(file["md5"]) in artifacts.contents
    artifact = artifacts.by_id(file["artifactID"])
    return {
        "name": file["name"],
        "storagePath": hex_digest(file["md5"]),
        # No address for a file that the server has: the client then sends nothing.
        "uploadUrl": None if known else artifacts.content_url(file["md5"]),
        "uploadHeaders": [],
        "uploadMultipartUrls": None,
        "artifact": {"id": artifact.id},
    }
