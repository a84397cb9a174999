"""The table of engine fields that `convert` reports, made of the verdicts of `modelwright.layers`."""

import json

from modelwright.config.from_megatron.unread_fields import TABLE

PATH = TABLE


def text() -> str:
    """Return the text of the file, with one line for each field."""
    from modelwright.config import LAYER_KINDS
    from modelwright.layers.engine_fields.table import VERDICTS
    from modelwright.layers.engine_fields.verdict import EVERY_LAYER, Honored, Refused

    rows: dict[str, dict[str, str]] = {}
    for name, verdict in sorted(VERDICTS.items()):
        if isinstance(verdict, Refused):
            rows[name] = {"layers": "", "reason": verdict.reason}
        elif isinstance(verdict, Honored) and "torch" not in verdict.backends:
            rows[name] = {"layers": "", "reason": "no part of the backend `torch` reads it"}
        elif verdict.layers != EVERY_LAYER:
            kinds = " and ".join(LAYER_KINDS[symbol].plural for symbol in verdict.layers)
            rows[name] = {"layers": verdict.layers, "reason": f"only {kinds} read it"}
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}\n"
