#!/usr/bin/env bash
# Puts a built site into the branch gh-pages, in the folder of its version.
#
#   .github/publish_docs.sh SITE VERSION ADDRESS
#
# A tag (v1.2.3) also becomes "stable" if it is the newest, which one with a suffix (v1.2.3rc1) is not.
# versions.json lists the folders for the site's list of versions, and index.html leads to the best.
set -euo pipefail
site=$(realpath "$1")
version=$2
export ADDRESS=${3%/}

git config user.name "docs workflow"
git config user.email "docs@localhost"
pages=$(mktemp -d)
if git fetch origin gh-pages; then
    git worktree add "$pages" FETCH_HEAD
    cd "$pages"
else # the first time
    git worktree add --detach "$pages"
    cd "$pages"
    git checkout --orphan gh-pages
    git rm -rfq --ignore-unmatch .
fi

rm -rf "${version:?}"
cp -r "$site" "$version"
newest=$(find . -maxdepth 1 -type d -regextype posix-extended -regex '\./v[0-9]+\.[0-9]+\.[0-9]+' \
    -printf "%f\n" | sort -V | tail -n 1)
if [[ $version == "$newest" ]]; then
    rm -rf stable
    cp -r "$site" stable
fi

python3 - <<'PY'
import json, os, pathlib, re
here = pathlib.Path()
stable = lambda name: re.fullmatch(r"v\d+\.\d+\.\d+", name) is not None
# A tag with a suffix comes before the one without, as in v1.0.0rc1 and v1.0.0.
key = lambda name: ([int(part) for part in re.findall(r"\d+", name)[:3]], stable(name), name)
tags = sorted((path.name for path in here.glob("v*") if path.is_dir()), key=key, reverse=True)
folders = [*tags, *(["dev"] if (here / "dev").exists() else [])]
preferred = next(filter(stable, folders), folders[-1])
(here / "versions.json").write_text(json.dumps(
    [{"version": name, "url": f"{os.environ['ADDRESS']}/{name}/", "preferred": name == preferred} for name in folders]
))
best = "stable" if (here / "stable").exists() else folders[-1]
(here / "index.html").write_text(
    f'<!doctype html><meta charset="utf-8"><title>Documentation</title>'
    f'<meta http-equiv="refresh" content="0; url={best}/"><a href="{best}/">Documentation</a>\n'
)
PY
touch .nojekyll
git add --all
git commit --allow-empty -m "Documentation of $version"
git push origin HEAD:gh-pages
