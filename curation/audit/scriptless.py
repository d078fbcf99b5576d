"""Runs commands of Argilla's server on a search engine without scripts. A script: `python scriptless.py start ...`.

Without arguments it reads a JSON list of commands from standard input.

Argilla changes the responses of a record in its search index by a script, which osmem does not know: a response would
be in the database, but the page would show an error and the record would stay pending. Here the responses are read,
changed and written back, one at a time, which is enough for a server of one process.

A response without values, which a program may give to discard a record, stops Argilla from making its index, and so
from starting: such a one is put into the index without any.
"""

import asyncio
import json
import sys
from typing import Any

from argilla_server.cli import app
from argilla_server.search_engine.commons import es_index_name_for_dataset
from argilla_server.search_engine.opensearch import OpenSearchEngine

_one_at_a_time = asyncio.Lock()
_mapped = OpenSearchEngine._map_record_response_to_es  # noqa: SLF001


def _map(response: Any) -> Any:
    if response.values is None:
        return {"id": response.id, "status": response.status, "user_id": response.user_id}
    return _mapped(response)


async def _replace(engine: Any, response: Any, fresh: list[dict[str, Any]]) -> None:
    index, key = es_index_name_for_dataset(response.record.dataset), str(response.record.id)
    async with _one_at_a_time:
        document = await engine.client.get(index=index, id=key)
        responses = document["_source"].get("responses") or []
        others = [known for known in responses if known["id"] != str(response.id)]
        await engine._update_document_request(index, id=key, body={"doc": {"responses": others + fresh}})  # noqa: SLF001


async def _update(engine: Any, response: Any) -> None:
    await _replace(engine, response, [engine._map_record_response_to_es(response)])  # noqa: SLF001


async def _delete(engine: Any, response: Any) -> None:
    await _replace(engine, response, [])


if __name__ == "__main__":
    OpenSearchEngine.update_record_response = _update
    OpenSearchEngine.delete_record_response = _delete
    OpenSearchEngine._map_record_response_to_es = staticmethod(_map)  # noqa: SLF001
    if sys.argv[1:]:
        app()
    else:
        for arguments in json.load(sys.stdin):
            app(arguments, standalone_mode=False)
