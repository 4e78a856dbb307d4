"""Artifacts: versions of named collections, their manifests and the bytes that they point to."""

import base64
import dataclasses
import hashlib
import json

from .executor import GraphQLError
from .identity import global_id, now


@dataclasses.dataclass
class Artifact:
    """One version; `version` is None until it is committed."""

    number: int
    type: str
    collection: str
    entity: str
    project: str
    run: str | None
    digest: str
    contents: dict = dataclasses.field(repr=False)
    state: str = "PENDING"
    version: int | None = None
    client_id: str | None = None
    wanted_aliases: list = dataclasses.field(default_factory=list)
    aliases: list = dataclasses.field(default_factory=list)
    tags: list = dataclasses.field(default_factory=list)
    metadata_json: str | None = None
    description: str | None = None
    used_by: list = dataclasses.field(default_factory=list)
    manifest: dict = dataclasses.field(default_factory=dict, repr=False)
    created: str = dataclasses.field(default_factory=now)

    @property
    def id(self):
        """The id that the client asks by."""
        return global_id("Artifact", self.number)

    @property
    def name(self):
        """The name with its version, `model:v0`."""
        return f"{self.collection}:v{self.version}"

    @property
    def metadata(self):
        """The metadata as the script gave it."""
        return json.loads(self.metadata_json) if self.metadata_json else {}

    @property
    def entries(self):
        """The manifest's entries that have bytes here, by path."""
        contents = self.manifest.get("contents", {})
        return {path: entry for path, entry in contents.items() if "ref" not in entry}

    @property
    def files(self):
        """The stored bytes by path."""
        return {path: self.contents[hex_digest(e["digest"])] for path, e in self.entries.items()}


def hex_digest(digest):
    """Returns a base64 MD5 in hex, which is safe in an address.

    Args:
        digest: Str, base64.
    """
    return base64.b64decode(digest).hex()


class Artifacts:
    """All artifacts of one server; `contents` are the bytes by the hex MD5 of what they hold."""

    def __init__(self, url):
        self.url = url
        self.versions = []
        self.contents = {}

    @property
    def committed(self):
        """The finished versions by name, oldest first."""
        return {artifact.name: artifact for artifact in self.versions if artifact.version is not None}

    def create(self, wanted):
        """Adds a version, or finds the one of the same collection and content.

        Args:
            wanted: Dict, `CreateArtifactInput`.
        """
        collection = (wanted.get("artifactCollectionNames") or [wanted.get("artifactCollectionName")])[0]
        aliases = [alias["alias"] for alias in wanted.get("aliases") or []]
        for known in self.collection(wanted["entityName"], wanted["projectName"], collection):
            if known.digest == wanted["digest"] and wanted.get("enableDigestDeduplication"):
                self.add_aliases(known, aliases)
                return known
        artifact = Artifact(
            number=len(self.versions) + 1,
            type=wanted["artifactTypeName"],
            collection=collection,
            entity=wanted["entityName"],
            project=wanted["projectName"],
            run=wanted.get("runName"),
            digest=wanted["digest"],
            contents=self.contents,
            client_id=wanted.get("clientID"),
            wanted_aliases=aliases,
            tags=[tag["tagName"] for tag in wanted.get("tags") or []],
            metadata_json=wanted.get("metadata"),
            description=wanted.get("description"),
        )
        self.versions.append(artifact)
        return artifact

    def commit(self, artifact):
        """Gives a version its number and its aliases.

        Args:
            artifact: Artifact whose files and manifest are here.

        Raises:
            GraphQLError: a file of the manifest was never uploaded.
        """
        missing = [path for path, entry in artifact.entries.items() if hex_digest(entry["digest"]) not in self.contents]
        if missing:
            raise GraphQLError(f"artifact {artifact.collection} misses {missing}")
        if artifact.version is None:  # a repeated commit must not make a second version
            known = self.collection(artifact.entity, artifact.project, artifact.collection)
            artifact.version, artifact.state = len(known), "COMMITTED"
        self.add_aliases(artifact, artifact.wanted_aliases)

    def add_aliases(self, artifact, aliases):
        """Moves aliases to a version: each stands on one version of a collection.

        Args:
            artifact: Artifact, committed.
            aliases: List of str.
        """
        for other in self.collection(artifact.entity, artifact.project, artifact.collection):
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases += [alias for alias in aliases if alias not in artifact.aliases]

    def collection(self, entity, project, name):
        """Returns a collection's committed versions, oldest first.

        Args:
            entity, project, name: Str.
        """
        place = (entity, project, name)
        done = self.committed.values()
        return [a for a in done if (a.entity, a.project, a.collection) == place]

    def by_name(self, entity, project, name):
        """Returns the version that a name stands for, or None.

        Args:
            entity, project: Str.
            name: Str, `collection:alias`; the alias is `latest` when it is left out.
        """
        collection, _, alias = name.partition(":")
        for artifact in self.collection(entity, project, collection):
            if (alias or "latest") in (*artifact.aliases, f"v{artifact.version}"):
                return artifact
        return None

    def by_id(self, key):
        """Returns the version with an id, or with the id that the client made up for it.

        Args:
            key: Str.

        Raises:
            GraphQLError: there is none.
        """
        for artifact in self.versions:
            if key in (artifact.id, artifact.client_id):
                return artifact
        raise GraphQLError(f"could not find artifact {key}")

    def manifest_url(self, artifact):
        """Returns where a version's manifest is put and got.

        Args:
            artifact: Artifact.
        """
        return f"{self.url}/storage/manifest/{artifact.number}"

    def content_url(self, digest):
        """Returns where a file's bytes are put and got.

        Args:
            digest: Str, the base64 MD5.
        """
        return f"{self.url}/storage/content/{hex_digest(digest)}"

    def put_content(self, key, data):
        """Stores a file's bytes.

        Args:
            key: Str, the hex MD5 that the client announced.
            data: Bytes.

        Raises:
            ValueError: the bytes are others than announced.
        """
        if hashlib.md5(data).hexdigest() != key:
            raise ValueError(f"content with another digest than {key}")
        self.contents[key] = data
