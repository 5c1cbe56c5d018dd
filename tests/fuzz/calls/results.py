"""Calls of results."""

from __future__ import annotations

from guard import INPUTS

import feynkac as fk
from calls.world import Call, World


def list_results(world: World) -> dict[str, Call]:
    """Reading, showing and writing one."""
    result, path = world.result, world.folder / "result.json"
    return {
        "sample of a result": Call(result.sample, {"k": 2, "seed": 0}),
        "expectation": Call(result.expectation, {"f": len}),
        "log_evidence_interval": Call(result.log_evidence_interval),
        "show": Call(result.show),
        "summary": Call(result.summary),
        **({"plot": Call(result.plot)} if INPUTS else {}),  # takes a second
        "preferences": Call(result.preferences, {"base": result, "prompt": "a"}),
        "to_html": Call(result.to_html, {"path": world.folder / "page.html"}),
        "write_page": Call(fk.write_page, {"results": [result], "path": world.folder / "pages.html"}),
        "to_pandas": Call(result.to_pandas),
        "to_json": Call(result.to_json, {"path": path}),
        "from_json": Call(fk.Result.from_json, {"path": world.folder / "none.json"}),
        "save_images": Call(result.save_images, {"folder": world.folder}),
    }
