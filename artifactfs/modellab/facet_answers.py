"""The facets of a project's runs: which keys occur, and with which values (model-lab-api.md, Endpoints).

Answers may be empty where there are some (recorded), and hold null for a list.
"""

from collections.abc import Iterator

from artifactfs.domain import FacetKeys
from artifactfs.errors import UnexpectedAnswer
from artifactfs.modellab import models


def decode_keys(body: bytes) -> FacetKeys:
    """Decode the answer of `/facet-keys`. Raises UnexpectedAnswer."""
    attributes = _attributes(body)
    return FacetKeys(tuple(_texts(attributes.get("parameters"))), tuple(_texts(attributes.get("tags"))))


def decode_values(body: bytes) -> tuple[str, ...]:
    """Decode the answer of `/facet-values`. Raises UnexpectedAnswer."""
    return tuple(_texts(_attributes(body).get("values")))


def _attributes(body: bytes) -> dict[str, object]:
    data = models.one_of(body)
    attributes = data.get("attributes") if isinstance(data, dict) else None
    if not isinstance(attributes, dict):
        raise UnexpectedAnswer("the answer holds no facets")
    return attributes


def _texts(found: object) -> Iterator[str]:
    """Yield each text once. A number or a truth is its text; of an object its `value`, or `key`, is meant."""
    seen = set()
    for each in found if isinstance(found, list) else []:
        text = each.get("value", each.get("key")) if isinstance(each, dict) else each
        if isinstance(text, bool):
            text = str(text).lower()
        if not isinstance(text, str | int | float) or not models.can_be_sent(str(text)):
            continue
        if str(text) not in seen:
            seen.add(str(text))
            yield str(text)
