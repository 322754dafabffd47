"""Print the lowest version of each direct dependency that pyproject.toml allows, as requirements for pip.

For `make test-lowest`: a lower bound that nobody tries is a guess.
"""

import re
import sys
import tomllib


def lowest(requirements: list[str]) -> list[str]:
    """Return `name==version` for each `name>=version`. Raises ValueError for one without a lower bound."""
    found = []
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9A-Za-z.]*)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} has no lower bound")
        found.append(f"{match[1]}=={match[2]}")
    return found


def main() -> None:
    with open("pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"].values()
    sys.stdout.write("\n".join(lowest([*project["dependencies"], *(row for extra in extras for row in extra)])) + "\n")


if __name__ == "__main__":
    main()
