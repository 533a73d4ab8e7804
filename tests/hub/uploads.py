"""Uploads to the test hub: a part of the protocol, as huggingface_hub speaks it."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

LARGE = (".safetensors", ".bin", ".onnx", ".npy")


class Uploads:
    """Makes repositories, takes large files by Git LFS, and commits.

    The class that inherits it has ``hub``, ``_send`` and ``http.server``'s request. The hub's
    ``token`` may write; ``moved``, if set, is committed by somebody else before the next commit.
    """

    hub: Any

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "validate-yaml"]:
                return self._say({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                answer, given = self._create, json.loads(asked)
                name = f"{given.get('organization', 'tests')}/{given['name']}"
            case ["api", "models", owner, name, "preupload", "main"]:
                answer, given, name = self._modes, json.loads(asked), f"{owner}/{name}"
            case [owner, name, "info", "lfs", "objects", "batch"]:
                answer, given = self._batch, json.loads(asked)
                name = f"{owner}/{name.removesuffix('.git')}"
            case ["api", "models", owner, name, "commit", "main"]:
                answer, name = self._commit, f"{owner}/{name}"
                given = [json.loads(line) for line in asked.splitlines()]
            case _:
                return self._send(404, b"")
        if self.headers["Authorization"] != f"Bearer {self.hub.token}":
            return self._send(401, b"")
        return answer(name, given)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            return self._send(400, b"")
        self.hub.blobs[oid] = content
        return self._send(200, b"")

    def _say(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _create(self, name: str, given: dict[str, Any]) -> None:
        if any(repo.name == name for repo in self.hub.repos):
            answer = {"error": "There is such a repository", "url": f"{self.hub.url}/{name}"}
            return self._send(409, json.dumps(answer).encode())
        repo = self.hub.add(name, {".gitattributes": b"*.onnx filter=lfs"})
        repo.is_private = given.get("visibility") == "private" or given.get("private", False)
        return self._say({"url": f"{self.hub.url}/{name}"})

    def _modes(self, name: str, given: dict[str, Any]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in given["files"]
        ]
        self._say({"files": modes})

    def _batch(self, name: str, given: dict[str, Any]) -> None:
        objects = []
        for asked in given["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}}}
            known = asked["oid"] in self.hub.blobs
            objects.append(asked | ({} if known else {"actions": upload}))
        self._say({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, given: list[dict[str, Any]]) -> None:
        repo = next(repo for repo in self.hub.repos if repo.name == name)
        if self.hub.moved:
            repo.commit("main", repo.newest | self.hub.moved)
        files = dict(repo.newest)
        for line in given:
            value = line["value"]
            match line["key"]:
                case "header" if value["parentCommit"] != repo.branches["main"]:
                    return self._send(412, b'{"error": "A commit has happened since"}')
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        commit = repo.commit("main", files)
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return self._say({"success": True, "commitUrl": url, "commitOid": commit})
