"""Sphinx configuration: `python -m sphinx -W --keep-going docs build/site` builds the site."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the site documents this checkout, installed or not

# Sphinx reads only its own folder, and readers of the repository look for notebooks at its root.
shutil.rmtree(ROOT / "docs/notebooks", ignore_errors=True)
shutil.copytree(ROOT / "notebooks", ROOT / "docs/notebooks", ignore=shutil.ignore_patterns(".*"))

_project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

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

# The tests run the notebooks. The site shows the outputs that are stored in them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Every reference to a public name of this library must resolve. Other names are not links.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!optax_gc\.(?!_)).*")]

autodoc_member_order = "bysource"
# The docstrings name the types in words. In signatures they hide the arguments.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "navbar_persistent": [],  # the side bar has the search already
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}

# The workflow passes the repository's address, which no file contains. With it the pages get links to
# the source and to the issues, and the notebooks a button that opens them in Colab.
if repository := os.environ.get("DOCS_REPOSITORY"):
    released = os.environ.get("DOCS_VERSION", "dev")
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": "main" if released == "dev" else released,
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }

# The publishing workflow passes the address that the site will have, and the name of the version.
# A build at home knows neither and has no list of versions.
if base_url := os.environ.get("DOCS_BASE_URL"):
    html_theme_options |= {
        "switcher": {
            "json_url": f"{base_url.rstrip('/')}/versions.json",
            "version_match": os.environ.get("DOCS_VERSION", "dev"),
        },
        "check_switcher": False,
        "primary_sidebar_end": ["version-switcher"],
    }
