"""Sphinx configuration: `sphinx-build -W --keep-going docs build/site`."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # documents the checkout, installed or not

# The notebooks stay where a reader of the repository looks for them; Sphinx reads only its own folder.
shutil.rmtree(ROOT / "docs/notebooks", ignore_errors=True)
shutil.copytree(ROOT / "notebooks", ROOT / "docs/notebooks", ignore=shutil.ignore_patterns(".*"))

_project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = _project["urls"]["Repository"]
SITE = _project["urls"]["Documentation"]

project = _project["name"]
author = project_copyright = _project["authors"][0]["name"]
version = release = _project["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Notebooks are executed by the tests; the site shows the outputs that are stored in them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Every reference to a name of this library must resolve. Names of other libraries are not links.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!optax_gc).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"Any": "Any"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_theme_options = {
    "repository_url": REPOSITORY,
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": True,
    "launch_buttons": {},
    "show_toc_level": 2,
    "switcher": {
        "json_url": f"{SITE}/versions.json",
        # The publishing workflow says which version it builds; a build at home is "dev".
        "version_match": os.environ.get("DOCS_VERSION", "dev"),
    },
    "check_switcher": False,
    "primary_sidebar_end": ["version-switcher"],
}
