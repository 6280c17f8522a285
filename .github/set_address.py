"""Writes the repository's address into what is about to be published.

    python .github/set_address.py https://github.com/OWNER/NAME v1.2.3

No file in the repository contains its own address, so forks and moves need no change. PyPI shows the
README and the links of `[project.urls]` outside of the repository, where they need it. The release
workflow runs this in its own checkout before it builds, and commits nothing.
"""

import re
import sys
from pathlib import Path
from urllib.parse import urljoin, urlsplit

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")


def write_urls(pyproject: str, address: str, tag: str) -> str:
    """Returns pyproject.toml with the addresses of the project below `[project.urls]`."""
    owner, name = urlsplit(address).path.strip("/").split("/")
    urls = {
        "Documentation": f"https://{owner.lower()}.github.io/{name}/stable/",
        "Source": address,
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
    }
    heading = "[project.urls]\n"
    if heading not in pyproject:
        raise SystemExit("pyproject.toml has no [project.urls]")
    lines = "".join(f'{label} = "{url}"\n' for label, url in urls.items())
    return pyproject.replace(heading, heading + lines)


def complete_links(page: str, address: str, tag: str) -> str:
    """Returns a page in Markdown whose relative links point to the files of the tag."""

    def complete(match):
        image, text, target = match.groups()
        text = _LINK.sub(complete, text)  # an image can be inside of a link
        if not urlsplit(target).scheme and not target.startswith("#"):
            # GitHub resolves links of a page against this address, and images against the other.
            target = urljoin(f"{address}/{'raw' if image else 'blob'}/{tag}/", target)
        return f"{image}[{text}]({target})"

    return _LINK.sub(complete, page)


def main(address: str, tag: str) -> None:
    address = address.rstrip("/")
    for name, change in {"pyproject.toml": write_urls, "README.md": complete_links}.items():
        path = Path(name)
        text = change(path.read_text(encoding="utf-8"), address, tag)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
